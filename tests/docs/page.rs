//! Reference pages are made from what the program says of itself, and compared with the files. After a change:
//! `WRITE_REFERENCE=1 cargo test --test docs`.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Demands that the file is this page, or writes it.
pub(crate) fn compare(file: &str, page: &str) {
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        fs::write(path(file), page).unwrap();
        return;
    }
    let there = fs::read_to_string(path(file)).unwrap_or_default();
    let mut lines = page
        .lines()
        .zip(there.lines().chain(std::iter::repeat("(the end)")));
    let first = lines.find(|(wanted, found)| wanted != found);
    assert!(
        there == page,
        "{file} is out of date. `WRITE_REFERENCE=1 cargo test --test docs` writes it anew. The first difference: {first:#?}"
    );
}

/// A table of Markdown.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>());
    text.push_str(&format!("|{}\n", "---|".repeat(head.len())));
    for row in rows {
        assert_eq!(row.len(), head.len(), "{row:?}");
        text.push_str(&line(&row));
    }
    text
}
