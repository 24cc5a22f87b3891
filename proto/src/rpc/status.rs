//! Errors as gRPC statuses, refusals of a borglet there and back, and both as sentences.

use crate::Millis;
use crate::names::shorten;
use crate::poll::{Fence, PollRefusal};
use crate::wire::WireError;
use std::error::Error;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata that carries a refusal in full: its kind and its values, separated by blanks.
const REFUSAL_KEY: &str = "borg-refusal";

/// The metadata that says when to ask again, in milliseconds: gRPC's own word for it (proposal A6),
/// so that other clients heed it too.
const RETRY_KEY: &str = "grpc-retry-pushback-ms";

/// Too much waits already, nothing was done, and asking again after a while is welcome.
#[must_use]
pub fn overloaded(text: &str, retry_after: Millis) -> Status {
    let mut status = Status::resource_exhausted(text);
    status.metadata_mut().insert(RETRY_KEY, MetadataValue::from(retry_after.0));
    status
}

/// When to ask again, if the server was [`overloaded`]. A refusal without it is final.
#[must_use]
pub fn retry_after(status: &Status) -> Option<Millis> {
    let text = status.metadata().get(RETRY_KEY)?.to_str().ok()?;
    text.parse().ok().map(Millis)
}

/// A field of a request is missing or out of bounds.
#[must_use]
pub fn status_of(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A borglet's refusal on the wire: a code and a text for people, and metadata from which
/// [`refusal_of`] makes it again.
#[must_use]
pub fn status_of_refusal(refusal: &PollRefusal) -> Status {
    let (code, values) = match refusal {
        PollRefusal::Cell { asked, mine } => {
            (Code::PermissionDenied, format!("cell {asked} {mine}"))
        }
        PollRefusal::Machine { asked, mine } => (Code::NotFound, format!("machine {asked} {mine}")),
        PollRefusal::Stale { asked, obeyed } => {
            (Code::Aborted, format!("stale {} {}", fence_text(*asked), fence_text(*obeyed)))
        }
        PollRefusal::TargetMissing { asked } => {
            (Code::FailedPrecondition, format!("target-missing {}", fence_text(*asked)))
        }
    };
    let mut status = Status::new(code, refusal.to_string());
    let value = MetadataValue::try_from(values).expect("names and numbers are visible ASCII");
    status.metadata_mut().insert(REFUSAL_KEY, value);
    status
}

/// The refusal in a status, when a borglet sent one.
#[must_use]
pub fn refusal_of(status: &Status) -> Option<PollRefusal> {
    let text = status.metadata().get(REFUSAL_KEY)?.to_str().ok()?;
    let mut words = text.split(' ');
    let kind = words.next()?;
    let values: Vec<&str> = words.collect();
    match (kind, values.as_slice()) {
        ("cell", [asked, mine]) => {
            Some(PollRefusal::Cell { asked: asked.parse().ok()?, mine: mine.parse().ok()? })
        }
        ("machine", [asked, mine]) => {
            Some(PollRefusal::Machine { asked: asked.parse().ok()?, mine: mine.parse().ok()? })
        }
        ("stale", [asked, obeyed]) => {
            Some(PollRefusal::Stale { asked: fence(asked)?, obeyed: fence(obeyed)? })
        }
        ("target-missing", [asked]) => Some(PollRefusal::TargetMissing { asked: fence(asked)? }),
        _ => None,
    }
}

fn fence_text(f: Fence) -> String {
    format!("{}.{}.{}.{}", f.epoch, f.term, f.session, f.generation)
}

fn fence(text: &str) -> Option<Fence> {
    let numbers: Vec<u64> = text.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    let &[epoch, term, session, generation] = numbers.as_slice() else { return None };
    Some(Fence { epoch, term, session, generation })
}

/// What went wrong with a call or a connection, in one sentence for people. Takes a [`Status`], a
/// `transport::Error`, or any error with one of them among its causes.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<_> = std::iter::successors(Some(error), |cause| (**cause).source()).collect();
    if let Some(sentence) = causes.iter().rev().find_map(|cause| explain_cause(*cause)) {
        return sentence;
    }
    match causes.iter().find_map(|cause| cause.downcast_ref::<Status>()) {
        Some(status) => explain_status(status),
        None => causes.last().map_or_else(String::new, ToString::to_string),
    }
}

fn explain_cause(cause: &(dyn Error + 'static)) -> Option<String> {
    let text = cause.to_string();
    // The TLS library's type is not ours to name; the tests over real sockets hold these texts.
    const TLS: [(&str, &str); 9] = [
        (
            "invalid peer certificate: certificate not valid for name",
            "the server there is another one than meant: its certificate carries another name",
        ),
        ("invalid peer certificate: certificate expired", "the server's certificate has expired"),
        (
            "invalid peer certificate: certificate not valid yet",
            "the server's certificate is not valid yet: are the clocks right?",
        ),
        (
            "invalid peer certificate",
            "the server's certificate is not of our cell's CA: wrong cell, or wrong credentials directory",
        ),
        (
            "received fatal alert: CertificateRequired",
            "the server wants a client certificate and got none",
        ),
        (
            "received fatal alert: CertificateExpired",
            "the server refuses our certificate: it has expired",
        ),
        (
            "received fatal alert: UnknownCA",
            "the server refuses our certificate: it is not of the server's CA",
        ),
        (
            "received fatal alert: DecryptError",
            "the server refuses our certificate: it is not of the server's CA",
        ),
        ("received fatal alert: BadCertificate", "the server refuses our certificate"),
    ];
    if let Some((_, sentence)) = TLS.iter().find(|(part, _)| text.contains(part)) {
        return Some((*sentence).to_owned());
    }
    if text.contains("received fatal alert") || text.contains("InvalidContentType") {
        return Some(format!("the TLS handshake failed: {}", shorten(&text)));
    }
    if text.contains("failed to lookup address") {
        return Some("the host's name cannot be resolved".into());
    }
    let late = ["deadline has elapsed", "TLS handshake timeout.", "keep-alive timed out"];
    if cause.is::<tonic::TimeoutExpired>() || late.contains(&text.as_str()) {
        return Some("no answer before the deadline".into());
    }
    let io = cause.downcast_ref::<std::io::Error>()?;
    match io.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            Some("connection refused: nothing listens there".into())
        }
        std::io::ErrorKind::TimedOut => Some("no answer before the deadline".into()),
        std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::BrokenPipe
        | std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::ConnectionAborted => {
            Some("the other end closed the connection".into())
        }
        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
            Some("there is no way to that host".into())
        }
        // Causes inside it are looked at by themselves.
        _ => None,
    }
}

fn explain_status(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::DeadlineExceeded, _) | (Code::Cancelled, "Timeout expired") => {
            "no answer before the deadline".into()
        }
        (code, "") => code.description().into(),
        (_, message) => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_its_status() {
        let fence = |epoch| Fence { epoch, term: 2, session: 3, generation: u64::MAX };
        let refusals = [
            PollRefusal::Cell { asked: "lab".parse().unwrap(), mine: "prod".parse().unwrap() },
            PollRefusal::Machine { asked: "m-1".parse().unwrap(), mine: "m_2".parse().unwrap() },
            PollRefusal::Stale { asked: fence(1), obeyed: fence(9) },
            PollRefusal::TargetMissing { asked: fence(1) },
        ];
        for refusal in refusals {
            let status = status_of_refusal(&refusal);
            assert_eq!(status.message(), refusal.to_string());
            assert_eq!(refusal_of(&status), Some(refusal));
        }
        assert_eq!(refusal_of(&Status::aborted("x")), None);
        for bad in
            ["", "stale", "stale 1.2.3 1.2.3.4", "cell A b", "stale 1.2.3.4 1.2.3.x", "other 1"]
        {
            let mut status = Status::aborted("x");
            status.metadata_mut().insert(REFUSAL_KEY, bad.parse().unwrap());
            assert_eq!(refusal_of(&status), None, "{bad}");
        }
    }

    #[test]
    fn an_overloaded_server_says_when_to_ask_again() {
        let status = overloaded("too much", Millis(250));
        assert_eq!(
            (status.code(), retry_after(&status)),
            (Code::ResourceExhausted, Some(Millis(250)))
        );
        assert_eq!(retry_after(&Status::resource_exhausted("no quota")), None);
        let mut odd = Status::resource_exhausted("x");
        odd.metadata_mut().insert(RETRY_KEY, MetadataValue::from_static("-1"));
        assert_eq!(retry_after(&odd), None, "gRPC's word for: do not ask again");
    }

    #[test]
    fn a_bad_field_is_an_invalid_argument() {
        let status = status_of(&WireError::new("spec.tasks", 0, "is too few"));
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "spec.tasks: 0 is too few")
        );
        assert_eq!(explain(&status), "spec.tasks: 0 is too few");
        assert_eq!(explain(&Status::deadline_exceeded("")), "no answer before the deadline");
    }
}
