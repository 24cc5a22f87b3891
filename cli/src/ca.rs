//! The cell's certificate authority: who is who in a cell.
//!
//! Makes the CA of a cell and the certificates of its masters, borglets and users. A certificate
//! carries its owner's name as a URI (`borg_proto::identity`), and for servers the DNS names that
//! clients insist on. Checking certificates is TLS's work, reading names that of
//! `borg_proto::rpc`.
//!
//! Invariant: a private key exists only in a file of mode 0600, complete or not at all.

use crate::clock;
use borg_proto::CellName;
use borg_proto::identity::{Identity, Role, any_master_name};
use borg_proto::rpc::{CA_FILE, CERT_FILE, KEY_FILE};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lifetime of the CA: 10 years, our choice.
const CA_LIFETIME: Duration = Duration::from_secs(10 * YEAR_S);
/// Lifetime of other certificates: 1 year, our choice; issuing again replaces them.
const LEAF_LIFETIME: Duration = Duration::from_secs(YEAR_S);
/// Certificates are valid from an hour ago, since clocks disagree.
const BEFORE: Duration = Duration::from_secs(3600);
const YEAR_S: u64 = 365 * 24 * 3600;

const CA_KEY_FILE: &str = "ca-key.pem";
const CELL_FILE: &str = "cell";

/// A cell's certificate authority.
pub struct CellCa {
    cell: CellName,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for CellCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CellCa").field("cell", &self.cell).finish_non_exhaustive()
    }
}

/// The CA cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The directory has a CA, which is never overwritten: every certificate would die with it.
    #[error("{} has a CA already", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// A file of the CA cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
}

impl CellCa {
    /// Makes the CA of a new cell in `dir` (made if need be).
    ///
    /// # Errors
    /// When there is one already, or the files cannot be written.
    pub fn create(dir: &Path, cell: CellName) -> Result<Self, CaError> {
        if dir.join(CA_FILE).exists() || dir.join(CA_KEY_FILE).exists() {
            return Err(CaError::Exists { dir: dir.to_owned() });
        }
        let mut params = params(&format!("CA of cell {cell}"), CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let ca_pem = params.self_signed(&key)?.pem();
        private_dir(dir)?;
        write(dir, CA_KEY_FILE, 0o600, &key.serialize_pem())?;
        write(dir, CELL_FILE, 0o644, cell.as_str())?;
        write(dir, CA_FILE, 0o644, &ca_pem)?;
        Ok(Self { cell, ca_pem, issuer: Issuer::new(params, key) })
    }

    /// Opens the CA that [`CellCa::create`] made in `dir`.
    ///
    /// # Errors
    /// When it is not there or not readable.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| CaError::Read { path, source })
        };
        let ca_pem = read(CA_FILE)?;
        let key = KeyPair::from_pem(&read(CA_KEY_FILE)?)?;
        let cell = read(CELL_FILE)?.trim().parse().map_err(|error| CaError::Read {
            path: dir.join(CELL_FILE),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key)?;
        Ok(Self { cell, ca_pem, issuer })
    }

    /// The cell that it vouches for.
    #[must_use]
    pub fn cell(&self) -> &CellName {
        &self.cell
    }

    /// Issues a certificate, valid for a year, and writes `ca.pem`, `cert.pem` and `key.pem` into
    /// `dir` (made if need be), replacing earlier ones.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn issue(&self, role: Role, dir: &Path) -> Result<Identity, CaError> {
        let identity = Identity { cell: self.cell.clone(), role };
        let mut params = params(&identity.to_string(), LEAF_LIFETIME);
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        let mut names: Vec<String> = identity.server_name().into_iter().collect();
        if matches!(identity.role, Role::Master(_)) {
            names.push(any_master_name(&self.cell));
        }
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match identity.role {
            Role::User(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Master(_) | Role::Borglet(_) => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
        };
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        private_dir(dir)?;
        write(dir, CA_FILE, 0o644, &self.ca_pem)?;
        write(dir, KEY_FILE, 0o600, &key.serialize_pem())?;
        write(dir, CERT_FILE, 0o644, &certificate.pem())?;
        Ok(identity)
    }
}

fn params(name: &str, lifetime: Duration) -> CertificateParams {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(clock::now().0);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - BEFORE;
    params.not_after = now + lifetime;
    params
}

fn private_dir(dir: &Path) -> Result<(), CaError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| CaError::Write { path: dir.to_owned(), source })
}

/// Writes a file complete or not at all.
fn write(dir: &Path, name: &str, mode: u32, text: &str) -> Result<(), CaError> {
    let path = dir.join(name);
    let partial = dir.join(format!(".{name}.{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&partial)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, &path));
    written.map_err(|source| CaError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::rpc::Credentials;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn certificates_of_every_role_are_credentials_with_their_name_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let made = CellCa::create(dir.path(), "lab".parse().unwrap()).unwrap();
        let opened = CellCa::open(dir.path()).unwrap();
        for (ca, name) in [
            (&made, "borg://lab/master/1"),
            (&opened, "borg://lab/borglet/m-1"),
            (&opened, "borg://lab/user/ann"),
        ] {
            let wanted: Identity = name.parse().unwrap();
            let to = dir.path().join(name.replace('/', "_"));
            assert_eq!(ca.issue(wanted.role.clone(), &to).unwrap(), wanted);
            assert_eq!(Credentials::load(&to).unwrap().identity, wanted);
            assert_eq!(
                fs::metadata(to.join(KEY_FILE)).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(
            fs::metadata(dir.path().join(CA_KEY_FILE)).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_second_ca_never_overwrites_the_first() {
        let dir = tempfile::tempdir().unwrap();
        CellCa::create(dir.path(), "lab".parse().unwrap()).unwrap();
        assert!(matches!(
            CellCa::create(dir.path(), "lab".parse().unwrap()),
            Err(CaError::Exists { .. })
        ));
        assert!(matches!(CellCa::open(&dir.path().join("none")), Err(CaError::Read { .. })));
    }
}
