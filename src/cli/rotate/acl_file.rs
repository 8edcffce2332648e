//! Passwords in an ACL file: one digest more or less in one user's line, and every other byte as it was.
//!
//! Whatever is done is read again afterwards, and must have changed the passwords of that user and nothing else.

use std::ops::Range;

use crate::acl::{User, rule};

/// What to change in the user's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    /// This digest in front of the others.
    Add([u8; 32]),
    /// All passwords but the first.
    DropOlder,
    /// The first password.
    DropNewest,
}

/// Why it is not done. Never holds any of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum EditError {
    /// The file is wrong as it is.
    #[error("it has errors; keyward check says which")]
    Invalid,
    /// Nobody of this name.
    #[error("it has no such user")]
    NoUser,
    /// The line takes passwords away again, or needs none.
    #[error("the user's line has `{0}` in it, so what another password would do depends on its order")]
    Doubtful(&'static str),
    /// There would be none left.
    #[error("the user has no other password")]
    TooFew,
    /// What came of it was not what was meant.
    #[error("the user's line is written in a way that this command does not understand")]
    Surprise,
}

/// How many passwords a user of the file has; `None`: there is no such user, or the file is wrong.
pub(super) fn passwords(text: &str, user: &str) -> Option<usize> {
    find(text, user).map(|user| user.passwords.len())
}

/// The text with one change.
pub(super) fn edit(text: &str, user: &str, edit: Edit) -> Result<String, EditError> {
    let before = rule::parse_file(text).map_err(|_| EditError::Invalid)?;
    let line = line_of(text, user).ok_or(EditError::NoUser)?;
    let found = words(text, line);
    let (mut secrets, mut depth) = (Vec::new(), 0_usize);
    for range in found.iter().skip(2) {
        let word = text.get(range.clone()).unwrap_or_default();
        // Passwords do not stand in selectors.
        if depth > 0 || word.starts_with('(') {
            depth = usize::from(!word.ends_with(')'));
            continue;
        }
        if let Some(doubt) = doubtful(word) {
            return Err(EditError::Doubtful(doubt));
        }
        if word.starts_with(['#', '>']) {
            secrets.push(range.clone());
        }
    }
    let mut after = text.to_owned();
    match edit {
        Edit::Add(digest) => {
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            match (secrets.first(), found.get(1)) {
                (Some(first), _) => after.insert_str(first.start, &format!("#{digest} ")),
                (None, Some(name)) => after.insert_str(name.end, &format!(" #{digest}")),
                (None, None) => return Err(EditError::Surprise),
            }
        }
        Edit::DropOlder | Edit::DropNewest if secrets.len() < 2 => return Err(EditError::TooFew),
        Edit::DropOlder => secrets.drain(..1).for_each(drop),
        Edit::DropNewest => secrets.truncate(1),
    }
    if !matches!(edit, Edit::Add(_)) {
        for range in secrets.into_iter().rev() {
            // With the blank before it: there is one, since the name stands before.
            after.replace_range(range.start.saturating_sub(1)..range.end, "");
        }
    }
    if is_as_meant(&before, &after, user, edit) {
        Ok(after)
    } else {
        Err(EditError::Surprise)
    }
}

/// Whether the file says after the change what it said before, but for that.
fn is_as_meant(before: &[(usize, User)], after: &str, name: &str, edit: Edit) -> bool {
    let Ok(after) = rule::parse_file(after) else {
        return false;
    };
    after.len() == before.len()
        && std::iter::zip(before, &after).all(|((_, before), (_, after))| {
            let mut meant = before.clone();
            if before.name == name {
                match edit {
                    Edit::Add(digest) => meant.passwords.insert(0, digest),
                    Edit::DropOlder => meant.passwords.truncate(1),
                    Edit::DropNewest => meant.passwords.drain(..1).for_each(drop),
                }
            }
            meant == *after
        })
}

fn find(text: &str, name: &str) -> Option<User> {
    let users = rule::parse_file(text).ok()?;
    users
        .into_iter()
        .map(|(_, user)| user)
        .find(|user| user.name == name)
}

/// Where the line of this user is.
fn line_of(text: &str, user: &str) -> Option<Range<usize>> {
    let mut start = 0;
    for line in text.split('\n') {
        let range = start..start + line.len();
        start = range.end + 1;
        let found = words(text, range.clone());
        let word = |index: usize| found.get(index).and_then(|range| text.get(range.clone()));
        if word(0) == Some("user") && word(1) == Some(user) {
            return Some(range);
        }
    }
    None
}

/// Where the words of a line are.
fn words(text: &str, line: Range<usize>) -> Vec<Range<usize>> {
    let (mut found, mut begin) = (Vec::new(), None);
    for index in line.clone() {
        let blank = matches!(text.as_bytes().get(index), Some(b' ' | b'\t' | b'\r'));
        match (blank, begin) {
            (false, None) => begin = Some(index),
            (true, Some(start)) => {
                found.push(start..index);
                begin = None;
            }
            _ => {}
        }
    }
    found.extend(begin.map(|start| start..line.end));
    found
}

/// Words that make the order of passwords matter, or passwords not matter.
fn doubtful(word: &str) -> Option<&'static str> {
    let is = |other: &str| word.eq_ignore_ascii_case(other);
    if is("nopass") {
        return Some("nopass");
    }
    if is("resetpass") {
        return Some("resetpass");
    }
    if is("reset") {
        return Some("reset");
    }
    match word.as_bytes().first() {
        Some(b'<') => Some("<"),
        Some(b'!') => Some("!"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: [u8; 32] = [0xab; 32];

    fn hex() -> String {
        "ab".repeat(32)
    }

    fn old() -> String {
        "5e".repeat(32)
    }

    /// Odd blanks, a selector with blanks in it, CR LF and a plaintext password: as people write them.
    fn file() -> String {
        format!(
            "user default off\r\n\n  user app on  #{} >second ~app:*  (+get ~x:* &y)\t +@all -@dangerous \nuser bare on ~* +@all\nuser apple on >app ~* +@all",
            old()
        )
    }

    #[test]
    fn a_password_is_added_and_taken_and_no_other_byte_changes() {
        let before = file();
        assert_eq!(passwords(&before, "app"), Some(2));
        let added = edit(&before, "app", Edit::Add(NEW)).unwrap();
        let needle = format!("#{} >second", old());
        assert_eq!(added, before.replace(&needle, &format!("#{} {needle}", hex())));
        assert_eq!(passwords(&added, "app"), Some(3));
        let finished = edit(&added, "app", Edit::DropOlder).unwrap();
        assert_eq!(finished, before.replace(&needle, &format!("#{}", hex())));
        assert_eq!(edit(&added, "app", Edit::DropNewest), Ok(before.clone()));
        assert_eq!(
            edit(&before, "bare", Edit::Add(NEW)).unwrap(),
            before.replace("user bare on", &format!("user bare #{} on", hex()))
        );
        assert!(
            edit(&before, "apple", Edit::Add(NEW))
                .unwrap()
                .ends_with(&format!("#{} >app ~* +@all", hex()))
        );
    }

    #[test]
    fn what_is_not_plain_is_left_alone() {
        for (line, error) in [
            ("user app on nopass", EditError::Doubtful("nopass")),
            ("user app on >a resetpass >b", EditError::Doubtful("resetpass")),
            ("user app reset on >a", EditError::Doubtful("reset")),
            ("user app on >a >b <a", EditError::Doubtful("<")),
            ("user other on >a", EditError::NoUser),
            ("user app on >a +nonsense", EditError::Invalid),
        ] {
            assert_eq!(edit(line, "app", Edit::Add(NEW)), Err(error), "{line}");
        }
        for change in [Edit::DropOlder, Edit::DropNewest] {
            assert_eq!(edit("user app on >a", "app", change), Err(EditError::TooFew));
        }
        // The same digest again would be one password, not two.
        let twice = format!("user app on #{}", hex());
        assert_eq!(edit(&twice, "app", Edit::Add(NEW)), Err(EditError::Surprise));
    }
}
