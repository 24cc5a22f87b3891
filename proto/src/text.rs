//! Texts that machines and tasks wrote, made harmless for whoever prints them.
//!
//! A terminal obeys control characters, and characters that change the direction of writing make a line
//! read like another: both are spelled out. Invariant: what was made harmless stays as it is when that is
//! done again.

/// Longest status line of a task, in bytes: our choice, what fits beside a task in a table.
pub const MAX_STATUS_LINE_BYTES: usize = 256;
/// Most that is kept of what a failed run wrote last, in bytes. 1 KiB: our choice, some ten lines.
pub const MAX_LAST_LINES_BYTES: usize = 1024;

/// Whether a character changes how what is around it is shown, rather than being shown.
fn is_sly(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn push(out: &mut String, c: char, most: usize, kept: &[char]) -> bool {
    let before = out.len();
    if is_sly(c) && !kept.contains(&c) {
        out.extend(c.escape_unicode());
    } else {
        out.push(c);
    }
    let fits = out.len() <= most;
    if !fits {
        out.truncate(before);
    }
    fits
}

/// The first line of `bytes`, at most `most` bytes of it, harmless.
#[must_use]
pub fn one_line(bytes: &[u8], most: usize) -> String {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // No character takes more than four bytes, nor becomes shorter than one.
    let text = String::from_utf8_lossy(&line[..line.len().min(most * 4)]);
    let mut out = String::new();
    for c in text.chars() {
        if !push(&mut out, c, most, &[]) {
            break;
        }
    }
    out
}

/// The last lines of `bytes`, at most `most` bytes of them, harmless. A line that does not fit begins in its
/// middle.
#[must_use]
pub fn last_lines(bytes: &[u8], most: usize) -> String {
    let kept = &bytes[bytes.len().saturating_sub(most)..];
    // Cut within a character: the rest of it is none.
    let whole = kept.iter().position(|byte| byte & 0xc0 != 0x80).unwrap_or(kept.len());
    let text =
        String::from_utf8_lossy(if kept.len() < bytes.len() { &kept[whole..] } else { kept });
    let mut backwards: Vec<String> = Vec::new();
    let mut length = 0;
    for c in text.trim_end_matches(['\n', '\r']).chars().rev() {
        let mut shown = String::new();
        push(&mut shown, c, usize::MAX, &['\n', '\t']);
        length += shown.len();
        if length > most {
            break;
        }
        backwards.push(shown);
    }
    backwards.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_obey_is_spelled_out() {
        assert_eq!(one_line(b"ready\x1b[31m\rgo\nmore", 99), "ready\\u{1b}[31m\\u{d}go");
        assert_eq!(
            one_line("a\u{202e}b\u{2066}c\u{200f}".as_bytes(), 99),
            "a\\u{202e}b\\u{2066}c\\u{200f}"
        );
        assert_eq!(one_line(b"\xff\xfe", 99), "\u{fffd}\u{fffd}");
        assert_eq!(one_line(b"", 9), "");
        assert_eq!(last_lines(b"a\nb\x07\tc\r\n\n", 99), "a\nb\\u{7}\tc");
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(one_line("aäö".as_bytes(), 4), "aä");
        assert_eq!(last_lines("äöü\n".as_bytes(), 5), "öü");
        assert_eq!(last_lines(&b"x".repeat(5000), 1024).len(), 1024);
    }

    proptest! {
        #[test]
        fn the_harmless_stays_as_it_is(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let line = one_line(&bytes, 100);
            prop_assert!(line.len() <= 100 && !line.chars().any(is_sly));
            prop_assert_eq!(one_line(line.as_bytes(), 100), line);
            let lines = last_lines(&bytes, 100);
            prop_assert!(lines.len() <= 100);
            prop_assert_eq!(last_lines(lines.as_bytes(), 100), lines);
        }
    }
}
