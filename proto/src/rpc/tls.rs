//! One end's credentials: its certificate and key, and the CA of its cell.
//!
//! Making them is left to `borgctl`; here they are loaded, checked, and turned into TLS settings.

use crate::identity::{Identity, IdentityError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, ServerTlsConfig};
use x509_parser::pem::Pem;
use x509_parser::prelude::{GeneralName, X509Certificate};

/// The cell's CA certificate within a credentials directory.
pub const CA_FILE: &str = "ca.pem";
/// The certificate.
pub const CERT_FILE: &str = "cert.pem";
/// Its private key.
pub const KEY_FILE: &str = "key.pem";
/// A peer that does not finish its handshake in this time is dropped: our choice.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// One end's certificate, key and CA, and the identity that the certificate gives it.
#[derive(Clone)]
pub struct Credentials {
    /// The cell's CA, PEM.
    pub ca_pem: String,
    /// The certificate, PEM; may be followed by its chain.
    pub cert_pem: String,
    /// The private key, PEM. Never printed.
    pub key_pem: String,
    /// Who the certificate says that we are.
    pub identity: Identity,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error(
        "cannot read {path}: {source}; a directory of credentials holds {CA_FILE}, {CERT_FILE} and {KEY_FILE}, made by `borgctl` together with the cell"
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{file} holds no {wanted} in PEM: have `borgctl` make the credentials again")]
    NotPem {
        /// Which.
        file: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The certificate names nobody, or more than one.
    #[error("{file}: {why}; a certificate of a cell has exactly one name borg://CELL/..")]
    Identity {
        /// Which file.
        file: String,
        /// What is wrong.
        why: NameProblem,
    },
    /// TLS takes the parts but not the whole.
    #[error("{cert} and {key} cannot be used together: {why}; is the key another certificate's?")]
    Mismatch {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
        /// What TLS says.
        why: String,
    },
}

/// What is wrong with the name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// Not an X.509 certificate.
    #[error("not a certificate")]
    NotACertificate,
    /// No URI begins with `borg://`.
    #[error("the certificate has no borg:// name")]
    None,
    /// Several do.
    #[error("the certificate has {0} borg:// names")]
    Several(usize),
    /// The one that does names nobody.
    #[error(transparent)]
    Bad(#[from] IdentityError),
}

impl Credentials {
    /// Loads `ca.pem`, `cert.pem` and `key.pem` of a directory. Blocks on the disk.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and what to do.
    pub fn load(dir: &Path) -> Result<Self, CredentialsError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|source| CredentialsError::Read { path, source })
        };
        let file = |name: &str| dir.join(name).display().to_string();
        let files = [file(CA_FILE), file(CERT_FILE), file(KEY_FILE)];
        Self::check(read(CA_FILE)?, read(CERT_FILE)?, read(KEY_FILE)?, files)
    }

    /// The same from texts in memory.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn from_pem(
        ca_pem: String,
        cert_pem: String,
        key_pem: String,
    ) -> Result<Self, CredentialsError> {
        Self::check(ca_pem, cert_pem, key_pem, [CA_FILE, CERT_FILE, KEY_FILE].map(Into::into))
    }

    fn check(
        ca_pem: String,
        cert_pem: String,
        key_pem: String,
        [ca, cert, key]: [String; 3],
    ) -> Result<Self, CredentialsError> {
        if !holds(&ca_pem, |label| label == "CERTIFICATE") {
            return Err(CredentialsError::NotPem { file: ca, wanted: "certificate" });
        }
        if !holds(&key_pem, |label| label.ends_with("PRIVATE KEY")) {
            return Err(CredentialsError::NotPem { file: key, wanted: "private key" });
        }
        let Some(first) = first_certificate(&cert_pem) else {
            return Err(CredentialsError::NotPem { file: cert, wanted: "certificate" });
        };
        let identity = match identity_of(&first.contents) {
            Ok(identity) => identity,
            Err(why) => return Err(CredentialsError::Identity { file: cert, why }),
        };
        let credentials = Self { ca_pem, cert_pem, key_pem, identity };
        // The TLS library itself says whether certificate and key go together.
        let trial =
            Endpoint::from_static("https://trial").tls_config(client_tls(&credentials, "trial"));
        match trial {
            Ok(_) => Ok(credentials),
            Err(error) => Err(CredentialsError::Mismatch { cert, key, why: innermost(&error) }),
        }
    }

    fn tls_identity(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(&self.cert_pem, &self.key_pem)
    }
}

/// How a server speaks TLS: its own certificate, and the client's is required and must be of the
/// same CA.
#[must_use]
pub fn server_tls(credentials: &Credentials) -> ServerTlsConfig {
    ServerTlsConfig::new()
        .identity(credentials.tls_identity())
        .client_ca_root(Certificate::from_pem(&credentials.ca_pem))
        .client_auth_optional(false)
        .timeout(HANDSHAKE_TIMEOUT)
}

/// How a client speaks TLS: its own certificate, and the server's must be of the same CA and carry
/// `server_name`.
#[must_use]
pub fn client_tls(credentials: &Credentials, server_name: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .identity(credentials.tls_identity())
        .ca_certificate(Certificate::from_pem(&credentials.ca_pem))
        .domain_name(server_name)
        .timeout(HANDSHAKE_TIMEOUT)
}

/// The identity in a certificate's subject alternative names.
pub(super) fn identity_of(der: &[u8]) -> Result<Identity, NameProblem> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).map_err(|_| NameProblem::NotACertificate)?;
    let names = borg_names(&certificate).ok_or(NameProblem::NotACertificate)?;
    match names.as_slice() {
        [] => Err(NameProblem::None),
        [name] => Ok(name.parse()?),
        several => Err(NameProblem::Several(several.len())),
    }
}

fn borg_names<'a>(certificate: &'a X509Certificate<'a>) -> Option<Vec<&'a str>> {
    let Some(names) = certificate.subject_alternative_name().ok()? else { return Some(vec![]) };
    let uri = |name: &'a GeneralName<'a>| match name {
        GeneralName::URI(uri) => Some(*uri).filter(|uri| uri.starts_with("borg:")),
        _ => None,
    };
    Some(names.value.general_names.iter().filter_map(uri).collect())
}

fn first_certificate(pem: &str) -> Option<Pem> {
    Pem::iter_from_buffer(pem.as_bytes()).flatten().find(|part| part.label == "CERTIFICATE")
}

fn holds(pem: &str, wanted: impl Fn(&str) -> bool) -> bool {
    Pem::iter_from_buffer(pem.as_bytes()).flatten().any(|part| wanted(&part.label))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
