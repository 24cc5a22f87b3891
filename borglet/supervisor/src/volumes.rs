//! Which directories of the machine a task may ask to see.
//!
//! The machine's operator allows prefixes; whole path components count, so `/data` does not allow
//! `/data2`. The check is on text: the shell resolves the prefix once, when it starts, and lets no
//! link lead elsewhere from there.

use borg_proto::names::shorten;
use borg_proto::spec::Volume;

/// A directory below which tasks may ask for volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedVolume {
    /// Absolute path, without a slash at its end except for the root.
    pub prefix: String,
    /// Whether tasks may write there.
    pub writable: bool,
}

impl AllowedVolume {
    /// Reads `PREFIX` or `PREFIX:ro`.
    ///
    /// # Errors
    /// When the prefix is not an absolute path without `..`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, writable) = match text.strip_suffix(":ro") {
            Some(prefix) => (prefix, false),
            None => (text, true),
        };
        if !is_plain_absolute(prefix) {
            return Err(format!("{:?} is not an absolute path without '..'", shorten(prefix)));
        }
        let trimmed = prefix.trim_end_matches('/');
        Ok(Self { prefix: if trimmed.is_empty() { "/".into() } else { trimmed.into() }, writable })
    }

    fn covers(&self, path: &str) -> bool {
        self.prefix == "/"
            || path
                .strip_prefix(&self.prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..")
}

/// What allows a volume: the longest prefix of those that do.
///
/// # Errors
/// A sentence that names the volume and what is allowed, when nothing does.
pub fn check<'a>(
    allowed: &'a [AllowedVolume],
    volume: &Volume,
) -> Result<&'a AllowedVolume, String> {
    let path = volume.path.as_str();
    if !is_plain_absolute(path) {
        return Err(format!("volume {:?} is not an absolute path without '..'", shorten(path)));
    }
    let fits = |rule: &&AllowedVolume| rule.covers(path) && (rule.writable || !volume.writable);
    if let Some(rule) = allowed.iter().filter(fits).max_by_key(|rule| rule.prefix.len()) {
        return Ok(rule);
    }
    let wish = if volume.writable { "writable volume" } else { "volume" };
    Err(format!("{wish} {:?} is not allowed on this machine, {}", shorten(path), listed(allowed)))
}

fn listed(allowed: &[AllowedVolume]) -> String {
    if allowed.is_empty() {
        return "no volume is (see borglet --volume)".into();
    }
    let show = |rule: &AllowedVolume| {
        format!("{}{}", rule.prefix, if rule.writable { "" } else { " (read only)" })
    };
    format!(
        "allowed is what lies under {}",
        allowed.iter().map(show).collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, writable: bool) -> Result<String, String> {
        let allowed = ["/data/", "/usr/share:ro"].map(|text| AllowedVolume::parse(text).unwrap());
        check(&allowed, &Volume { path: path.into(), writable }).map(|rule| rule.prefix.clone())
    }

    #[test]
    fn only_what_lies_under_an_allowed_prefix_is_seen() {
        ask("/data", true).unwrap();
        ask("/data/x", true).unwrap();
        ask("/usr/share/dict", false).unwrap();
        assert!(ask("/data2", false).is_err());
        assert!(ask("/data/../etc", false).is_err());
        assert_eq!(
            ask("/usr/share/dict", true).unwrap_err(),
            "writable volume \"/usr/share/dict\" is not allowed on this machine, \
             allowed is what lies under /data, /usr/share (read only)"
        );
        let none = check(&[], &Volume { path: "/".into(), writable: false }).unwrap_err();
        assert!(none.contains("no volume is"), "{none}");
    }

    #[test]
    fn a_prefix_that_is_no_absolute_path_is_refused() {
        for bad in ["data", "", "/a/..", "../x:ro"] {
            assert!(AllowedVolume::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(AllowedVolume::parse("/").unwrap().prefix, "/");
    }
}
