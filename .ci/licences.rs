//! May what this workspace links be shipped under Apache-2.0, and is every known flaw in it answered for?
//!
//! Compiled by `./ci licences` with rustc alone, so that the answer needs no network, no other tool
//! and no package that would itself have to be judged. Reads `Cargo.lock`, `deny.toml` (the part of
//! cargo-deny's format that we use, so cargo-deny users may run it on the same file) and, on
//! standard input, one line `NAME vVERSION [(WHERE)]<tab>LICENCE` per package from `cargo tree`.
//!
//! Invariant: what is not understood is a refusal. A line of `deny.toml` that does not parse, a
//! package without a licence and a waiver without a date all fail the check.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::process::ExitCode;

mod toml {
    //! The part of TOML that `deny.toml` uses: tables, strings, booleans, arrays, inline tables.
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, PartialEq)]
    pub enum Value {
        Text(String),
        Flag(bool),
        List(Vec<Value>),
        Table(BTreeMap<String, Value>),
    }

    struct Reader<'a> {
        rest: &'a str,
    }

    impl Reader<'_> {
        /// Skips blanks and comments; line ends too, since no value of ours depends on them.
        fn skip(&mut self) {
            loop {
                self.rest = self.rest.trim_start();
                let Some(comment) = self.rest.strip_prefix('#') else { return };
                self.rest = comment.find('\n').map_or("", |end| &comment[end..]);
            }
        }
        fn take(&mut self, token: char) -> bool {
            self.skip();
            let Some(rest) = self.rest.strip_prefix(token) else { return false };
            self.rest = rest;
            true
        }
        fn expect(&mut self, token: char) -> Result<(), String> {
            if self.take(token) { Ok(()) } else { Err(self.unread(&format!("`{token}`"))) }
        }
        fn unread(&self, wanted: &str) -> String {
            let line = self.rest.lines().next().unwrap_or("the end");
            format!("deny.toml: expected {wanted} before: {line}")
        }
        fn key(&mut self) -> Result<String, String> {
            self.skip();
            let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
            let (key, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            if key.is_empty() {
                return Err(self.unread("a key"));
            }
            self.rest = rest;
            Ok(key.to_owned())
        }
        fn value(&mut self) -> Result<Value, String> {
            if self.take('"') {
                let end = self.rest.find('"').ok_or_else(|| self.unread("a closing quote"))?;
                let (text, rest) = self.rest.split_at(end);
                if text.contains(['\\', '\n']) {
                    return Err(self.unread("a string of one line without escapes"));
                }
                self.rest = &rest[1..];
                return Ok(Value::Text(text.to_owned()));
            }
            if self.take('[') {
                let mut list = Vec::new();
                while !self.take(']') {
                    list.push(self.value()?);
                    if !self.take(',') {
                        self.expect(']')?;
                        break;
                    }
                }
                return Ok(Value::List(list));
            }
            if self.take('{') {
                let mut table = BTreeMap::new();
                while !self.take('}') {
                    self.pair(&mut table)?;
                    if !self.take(',') {
                        self.expect('}')?;
                        break;
                    }
                }
                return Ok(Value::Table(table));
            }
            match self.key()?.as_str() {
                "true" => Ok(Value::Flag(true)),
                "false" => Ok(Value::Flag(false)),
                other => Err(format!("deny.toml: `{other}` is not a value")),
            }
        }
        fn pair(&mut self, table: &mut BTreeMap<String, Value>) -> Result<(), String> {
            let key = self.key()?;
            self.expect('=')?;
            let value = self.value()?;
            match table.insert(key.clone(), value) {
                None => Ok(()),
                Some(_) => Err(format!("deny.toml: `{key}` is there twice")),
            }
        }
    }

    /// `(table, key)` to value, for every key of the file.
    pub fn read(text: &str) -> Result<BTreeMap<(String, String), Value>, String> {
        let mut reader = Reader { rest: text };
        let (mut all, mut table) = (BTreeMap::new(), String::new());
        loop {
            reader.skip();
            if reader.rest.is_empty() {
                return Ok(all);
            }
            if reader.take('[') {
                table = reader.key()?;
                reader.expect(']')?;
                continue;
            }
            let mut pair = BTreeMap::new();
            reader.pair(&mut pair)?;
            for (key, value) in pair {
                if all.insert((table.clone(), key.clone()), value).is_some() {
                    return Err(format!("deny.toml: `{table}.{key}` is there twice"));
                }
            }
        }
    }

    impl Value {
        pub fn text(&self) -> Result<&str, String> {
            if let Self::Text(text) = self {
                Ok(text)
            } else {
                Err(format!("{self:?} is not a string"))
            }
        }
        pub fn list(&self) -> Result<&[Self], String> {
            if let Self::List(list) = self {
                Ok(list)
            } else {
                Err(format!("{self:?} is not a list"))
            }
        }
        pub fn field(&self, name: &str) -> Result<&Self, String> {
            let Self::Table(table) = self else { return Err(format!("{self:?} is not a table")) };
            table.get(name).ok_or_else(|| format!("deny.toml: no `{name}` in {table:?}"))
        }
    }
}

/// Whether a licence expression (SPDX, and the older `A/B` for `A OR B`) is satisfied by `allowed`.
/// `AND` binds tighter than `OR`. `X+` is satisfied by X itself: the user of the code chooses.
fn satisfied(expression: &str, allowed: &mut dyn FnMut(&str) -> bool) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let answer = alternatives(&words, &mut at, allowed);
    match answer {
        Some(answer) if at == words.len() => Ok(answer),
        _ => Err(format!("`{expression}` is not a licence expression")),
    }
}

fn alternatives(w: &[&str], at: &mut usize, allowed: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
    let mut any = requirements(w, at, allowed)?;
    while w.get(*at) == Some(&"OR") {
        *at += 1;
        any |= requirements(w, at, allowed)?;
    }
    Some(any)
}

fn requirements(w: &[&str], at: &mut usize, allowed: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
    let mut all = licence(w, at, allowed)?;
    while w.get(*at) == Some(&"AND") {
        *at += 1;
        all &= licence(w, at, allowed)?;
    }
    Some(all)
}

fn licence(w: &[&str], at: &mut usize, allowed: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
    let name = *w.get(*at)?;
    *at += 1;
    if name == "(" {
        let inner = alternatives(w, at, allowed)?;
        let closed = w.get(*at) == Some(&")");
        *at += 1;
        return closed.then_some(inner);
    }
    if matches!(name, ")" | "AND" | "OR" | "WITH") {
        return None;
    }
    if w.get(*at) == Some(&"WITH") {
        let exception = *w.get(*at + 1)?;
        *at += 2;
        return Some(allowed(&format!("{name} WITH {exception}")));
    }
    Some(allowed(name.strip_suffix('+').unwrap_or(name)))
}

/// `Cargo.lock`: (name, version) to where it comes from; none for the workspace's own.
fn locked(text: &str) -> BTreeMap<(String, String), Option<String>> {
    let mut all = BTreeMap::new();
    for block in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line =
                block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version)) = (field("name"), field("version")) {
            all.insert((name, version), field("source"));
        }
    }
    all
}

/// What a waiver's reason begins with: `CRATE@VERSION until YYYY-MM-DD: why`.
fn waiver(reason: &str) -> Option<((String, String), &str)> {
    let (head, why) = reason.split_once(": ")?;
    let (package, date) = head.split_once(" until ")?;
    let (name, version) = package.split_once('@')?;
    let dated = date.len() == 10 && date.split('-').map(str::len).eq([4, 2, 2]) && !why.is_empty();
    dated.then(|| ((name.to_owned(), version.to_owned()), date))
}

fn check(today: &str, tree: &str) -> Result<Vec<String>, String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|why| format!("{path}: {why}"));
    let lock = locked(&read("Cargo.lock")?);
    let rules = toml::read(&read("deny.toml")?)?;
    let rule = |table: &str, key: &str| {
        let found = rules.get(&(table.to_owned(), key.to_owned()));
        found.ok_or_else(|| format!("deny.toml: no `{key}` in [{table}]"))
    };
    let texts = |value: &toml::Value| -> Result<BTreeSet<String>, String> {
        value.list()?.iter().map(|item| Ok(item.text()?.to_owned())).collect()
    };
    let mut wrong = Vec::new();

    // Sources: the public registry, and this workspace (which has no source in the lock file).
    let registries = texts(rule("sources", "allow-registry")?)?;
    for ((name, version), source) in &lock {
        let Some(source) = source else { continue };
        if !source.strip_prefix("registry+").is_some_and(|url| registries.contains(url)) {
            wrong.push(format!("{name} {version} comes from {source}"));
        }
    }

    // Licences: of every package that any target, feature or test of the workspace reaches.
    let allow = texts(rule("licenses", "allow")?)?;
    let mut exceptions = BTreeMap::new();
    for exception in rule("licenses", "exceptions")?.list()? {
        exceptions.insert(exception.field("crate")?.text()?, texts(exception.field("allow")?)?);
    }
    let (mut needed, mut judged) = (BTreeSet::new(), BTreeSet::new());
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, expression) =
            line.split_once('\t').ok_or_else(|| format!("not of cargo tree: {line}"))?;
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            return Err(format!("not of cargo tree: {line}"));
        };
        judged.insert((name.to_owned(), version.trim_start_matches('v').to_owned()));
        let mut allowed = |licence: &str| {
            let general = allow.contains(licence);
            if general || exceptions.get(name).is_some_and(|own| own.contains(licence)) {
                needed.insert(if general {
                    licence.to_owned()
                } else {
                    format!("{name} {licence}")
                });
                return true;
            }
            false
        };
        match satisfied(expression, &mut allowed) {
            Ok(true) => {}
            Ok(false) => {
                wrong.push(format!("{name} {version}: licence `{expression}` is not allowed"))
            }
            Err(why) => wrong.push(format!("{name} {version}: {why}")),
        }
    }
    for licence in allow.iter().filter(|&licence| !needed.contains(licence)) {
        wrong.push(format!("licence {licence} is allowed but nothing needs it"));
    }
    for (name, own) in &exceptions {
        for licence in own.iter().filter(|licence| !needed.contains(&format!("{name} {licence}"))) {
            wrong.push(format!("the exception for {name} ({licence}) is not needed"));
        }
    }
    let unreached = lock.keys().filter(|&package| !judged.contains(package)).count();

    // Bans, and waivers of advisories.
    for ban in rule("bans", "deny")?.list()? {
        let name = ban.field("crate")?.text()?;
        if lock.keys().any(|(locked, _)| locked == name) {
            wrong.push(format!("{name} is banned: {}", ban.field("reason")?.text()?));
        }
    }
    let waivers = rule("advisories", "ignore")?.list()?;
    for ignored in waivers {
        let (id, reason) = (ignored.field("id")?.text()?, ignored.field("reason")?.text()?);
        match waiver(reason) {
            None => wrong.push(format!("{id}: a reason begins `CRATE@VERSION until YYYY-MM-DD: `")),
            Some((package, _)) if !lock.contains_key(&package) => {
                wrong.push(format!("{id} waives {} {}, which is not locked", package.0, package.1));
            }
            Some((_, until)) if until < today => {
                wrong.push(format!("{id} was to be looked at again by {until}"));
            }
            Some(_) => {}
        }
    }
    println!(
        "licences: {} packages judged, {unreached} locked but reached by no target, {} waivers",
        judged.len(),
        waivers.len()
    );
    println!(
        "licences: neither the advisory database nor the registry's list of yanked versions is \
         consulted: both need the network. New advisories are found with cargo-deny and waived in deny.toml."
    );
    Ok(wrong)
}

fn main() -> ExitCode {
    let today = std::env::args().nth(1).unwrap_or_default();
    let mut tree = String::new();
    let read = std::io::stdin().read_to_string(&mut tree).map_err(|why| why.to_string());
    match read.and_then(|_| check(&today, &tree)) {
        Ok(wrong) if wrong.is_empty() && today.len() == 10 && !tree.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            wrong.iter().for_each(|problem| eprintln!("licences: {problem}"));
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("licences: {why} (usage: cargo tree ... | licences YYYY-MM-DD)");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_ship(expression: &str) -> Result<bool, String> {
        satisfied(expression, &mut |licence| {
            ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].contains(&licence)
        })
    }

    #[test]
    fn and_binds_tighter_than_or_and_brackets_bind_tightest() {
        assert_eq!(may_ship("MIT OR GPL-3.0 AND GPL-2.0"), Ok(true));
        assert_eq!(may_ship("(MIT OR GPL-3.0) AND GPL-2.0"), Ok(false));
        assert_eq!(may_ship("(MIT OR Apache-2.0) AND ISC"), Ok(true));
    }

    #[test]
    fn old_slashes_later_versions_and_exceptions_are_understood() {
        assert_eq!(may_ship("GPL-3.0/MIT"), Ok(true));
        assert_eq!(may_ship("MIT+"), Ok(true));
        assert_eq!(may_ship("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(may_ship("Apache-2.0"), Ok(false));
    }

    #[test]
    fn what_is_not_an_expression_is_refused() {
        for broken in ["", "MIT OR", "(MIT", "MIT)", "AND", "MIT ISC", "MIT WITH"] {
            assert!(may_ship(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_waiver_names_a_version_a_date_and_a_reason() {
        let package = ("sled".to_owned(), "0.34.7".to_owned());
        assert_eq!(waiver("sled@0.34.7 until 2027-06-01: why"), Some((package, "2027-06-01")));
        for broken in [
            "why",
            "sled until 2027-06-01: why",
            "sled@1 until soon: why",
            "sled@1 until 2027-06-01: ",
        ] {
            assert_eq!(waiver(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_broken_rule_file_is_an_error_and_not_an_empty_one() {
        assert!(toml::read("[licenses]\nallow = [\"MIT\", # why\n \"ISC\",]\n").is_ok());
        for broken in ["[a", "a = ", "a = [\"b\"", "a = 3", "a = \"b", "a = true\na = false", "= 1"]
        {
            assert!(toml::read(broken).is_err(), "{broken}");
        }
    }
}
