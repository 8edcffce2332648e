//! Which files have changed: by asking, not by being told.
//!
//! `stat` through all links sees what Kubernetes does (it swaps a symlink to a directory, which file watchers miss), an atomic
//! rename, and a rewrite in place; it works on every file system and costs microseconds (F-21).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A set of files and how they looked last.
pub(super) struct Files {
    looks: Vec<(PathBuf, Option<Look>)>,
    /// Something changed at the last look, and may be changing still.
    restless: bool,
}

impl Files {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let looks = paths
            .into_iter()
            .map(|path| {
                let look = look(&path);
                (path, look)
            })
            .collect();
        Self {
            looks,
            restless: false,
        }
    }

    /// Whether any has changed, and none since the last look: a certificate and its key are two files, and between the
    /// two they do not fit. A file that is being replaced and missing at this moment counts when it is there again.
    pub(super) fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, last) in &mut self.looks {
            let now = look(path);
            if now.is_some() && now != *last {
                *last = now;
                changed = true;
            }
        }
        std::mem::replace(&mut self.restless, changed) && !changed
    }
}

fn look(path: &Path) -> Option<Look> {
    let metadata = fs::metadata(path).ok()?;
    Some(Look {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn rewriting_renaming_and_swapping_links_are_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::create_dir(dir.path().join("v1")).unwrap();
        fs::create_dir(dir.path().join("v2")).unwrap();
        fs::write(dir.path().join("v1/secret"), "one").unwrap();
        fs::write(dir.path().join("v2/secret"), "two").unwrap();
        // As Kubernetes mounts them: the file is a link through `..data`.
        symlink("v1", dir.path().join("..data")).unwrap();
        symlink("..data/secret", &secret).unwrap();
        let mut files = Files::new(vec![secret]);
        assert!(!files.changed());
        symlink("v2", dir.path().join("..next")).unwrap();
        fs::rename(dir.path().join("..next"), dir.path().join("..data")).unwrap();
        assert!(!files.changed(), "it may not be all");
        assert!(files.changed());
        assert!(!files.changed());
        fs::write(dir.path().join("v2/secret"), "longer than before").unwrap();
        assert!(!files.changed());
        fs::write(dir.path().join("v2/secret"), "and longer still than before").unwrap();
        assert!(!files.changed(), "it was not all");
        assert!(files.changed());
        fs::remove_file(dir.path().join("v2/secret")).unwrap();
        assert!(
            !files.changed(),
            "a file that is gone for a moment is no reason to reload"
        );
    }
}
