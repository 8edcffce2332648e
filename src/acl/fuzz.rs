//! Oracles for the readers of rules and ACL files, whatever the text. The fuzz target and a test share them; no other
//! code of the proxy uses this module.

use super::User;
use super::rule::{self, RuleError};

/// Reads a text as rules and as an ACL file: never a panic, what is accepted can be written and read again, and no
/// message holds a password.
pub fn fuzz_rules(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if text.contains(SECRET) {
        return;
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if let Ok(user) = rule::parse_user_all("name", &words) {
        read_again(&user);
    }
    match rule::parse_file(text) {
        Ok(users) => users.iter().for_each(|(_, user)| read_again(user)),
        Err(errors) => assert!(!errors.is_empty()),
    }

    let words: Vec<String> = words.iter().map(|word| with_secret(word)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Err(errors) = rule::parse_user_all("name", &words) {
        assert!(
            errors.iter().all(|error| error.word_index <= words.len()),
            "a word that is not there"
        );
        keeps_secrets(&errors);
    }
    let lines: Vec<String> = text.split('\n').map(line_with_secrets).collect();
    if let Err(errors) = rule::parse_file(&lines.join("\n")) {
        let in_text = |error: &RuleError| {
            error
                .position
                .is_none_or(|(line, column)| (1..=lines.len()).contains(&line) && column > 0)
        };
        assert!(errors.iter().all(in_text), "a line that is not there");
        keeps_secrets(&errors);
    }
}

fn read_again(user: &User) {
    let rule = user.to_rule();
    match rule::parse_file(&rule) {
        Ok(users) => {
            let again: Vec<&User> = users.iter().map(|(_, user)| user).collect();
            assert!(
                again == [user],
                "another user came back: {rule} became {:?}",
                again.iter().map(|user| user.to_rule()).collect::<Vec<_>>()
            );
        }
        Err(errors) => assert!(errors.is_empty(), "{rule} is refused: {errors:?}"),
    }
}

/// The words behind the name of a line are rules.
fn line_with_secrets(line: &str) -> String {
    let words = line.split(' ').enumerate();
    let words: Vec<String> = words
        .map(|(index, word)| {
            if index < 2 {
                word.to_owned()
            } else {
                with_secret(word)
            }
        })
        .collect();
    words.join(" ")
}

/// `>password` and `<password` with one that can be found again.
fn with_secret(word: &str) -> String {
    match word.chars().next() {
        Some(sign @ ('>' | '<')) => format!("{sign}{SECRET}"),
        _ => word.to_owned(),
    }
}

fn keeps_secrets(errors: &[RuleError]) {
    for error in errors {
        let shown = error.to_string();
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

const SECRET: &str = "a-secret-of-the-rules";
