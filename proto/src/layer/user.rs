//! Whom an image's `USER` means, by its own tables of users and groups (passwd(5), group(5)).

use super::MAX_ID;

/// Where an image has its users.
pub const USERS: &str = "/etc/passwd";
/// Where an image has its groups.
pub const GROUPS: &str = "/etc/group";
/// Longest of these files that is looked into: 1 MiB, our choice.
pub const MAX_TABLE_BYTES: u64 = 1 << 20;

/// The user and group that `USER` or `USER:GROUP`, by names or numbers, means; `None` for nobody in particular.
/// `table` gives the text of [`USERS`] or [`GROUPS`], empty when the image has none.
///
/// # Errors
/// That of `table`, or a sentence for people when there is no such user or group, or no task may have its number.
pub fn ids_of<E: From<String>>(
    user: &str,
    table: impl Fn(&'static str) -> Result<String, E>,
) -> Result<Option<(u32, u32)>, E> {
    if user.is_empty() {
        return Ok(None);
    }
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let named_group = group.filter(|group| group.parse::<u32>().is_err());
    // Of one that is only numbers nothing has to be looked up, as many images have no tables.
    let users = match (user.parse::<u32>(), group) {
        (Ok(_), Some(_)) => String::new(),
        (_, _) => table(USERS)?,
    };
    let uid = match user.parse() {
        Ok(uid) => uid,
        Err(_) => {
            let fields = find(&users, user).ok_or_else(|| missing("user", user, USERS))?;
            number("user", user, fields.get(2))?
        }
    };
    let gid = match (group, named_group) {
        (_, Some(group)) => {
            let groups = table(GROUPS)?;
            let fields = find(&groups, group).ok_or_else(|| missing("group", group, GROUPS))?;
            number("group", group, fields.get(2))?
        }
        (Some(group), None) => number("group", group, Some(&group))?,
        // As its user has it there, and root's for one that is only a number.
        (None, None) => match by_number(&users, uid) {
            Some(fields) => number("user", user, fields.get(3))?,
            None => 0,
        },
    };
    for (what, id) in [("user", uid), ("group", gid)] {
        if id > MAX_ID {
            return Err(format!("{what} {id} is over {MAX_ID}, the last that tasks have").into());
        }
    }
    Ok(Some((uid, gid)))
}

fn missing(what: &str, name: &str, table: &str) -> String {
    format!("{what} {name:?} is not in its {table}")
}

fn number(what: &str, name: &str, field: Option<&&str>) -> Result<u32, String> {
    let number = field.and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{what} {name:?} has no number"))
}

/// The fields of the line that begins with a name.
fn find<'a>(table: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let fields = |line: &'a str| line.split(':').collect::<Vec<_>>();
    table.lines().map(fields).find(|fields| fields.first() == Some(&name))
}

fn by_number(table: &str, uid: u32) -> Option<Vec<&str>> {
    let fields = |line| str::split(line, ':').collect::<Vec<_>>();
    let same = |fields: &Vec<&str>| fields.get(2).and_then(|text| text.parse().ok()) == Some(uid);
    table.lines().map(fields).find(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(user: &str) -> Result<Option<(u32, u32)>, String> {
        ids_of(user, |table| {
            Ok(match table {
                USERS => {
                    "root:x:0:0::/:/bin/sh\nweb:x:33:44::/srv:/bin/false\nbroken\nhigh:x:70000:1\n"
                }
                _groups => "www:x:55:\nodd:x:y:\n",
            }
            .to_owned())
        })
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        assert_eq!(ids(""), Ok(None));
        assert_eq!(ids("web"), Ok(Some((33, 44))));
        assert_eq!(ids("33"), Ok(Some((33, 44))));
        assert_eq!(ids("77"), Ok(Some((77, 0))));
        assert_eq!(ids("web:www"), Ok(Some((33, 55))));
        assert_eq!(ids("web:9"), Ok(Some((33, 9))));
        assert_eq!(ids("7:9"), Ok(Some((7, 9))));
    }

    #[test]
    fn who_is_not_there_is_named_with_the_table_that_lacks_him() {
        let why = |user: &str| ids(user).unwrap_err();
        assert_eq!(why("nobody"), "user \"nobody\" is not in its /etc/passwd");
        assert_eq!(why("web:none"), "group \"none\" is not in its /etc/group");
        assert_eq!(why("broken"), "user \"broken\" has no number");
        assert_eq!(why("web:odd"), "group \"odd\" has no number");
        assert_eq!(why("high"), "user 70000 is over 65535, the last that tasks have");
        assert_eq!(why("1:70000"), "group 70000 is over 65535, the last that tasks have");
    }

    #[test]
    fn numbers_need_no_tables() {
        let found = ids_of("7:9", |_| Err("looked into".to_owned()));
        assert_eq!(found, Ok(Some((7, 9))));
    }
}
