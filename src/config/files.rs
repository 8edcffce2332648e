//! Files that the configuration names: there, readable, and not open to the wrong people.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::code;
use super::context::{Context, Place};

/// How much of a secret a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Certificates, CA bundles, revocation lists.
    Public,
    /// Password digests: refused when others may write it; a warning when others may read it.
    Digests,
    /// Private keys and passwords: refused when wider than 0640 (rules ).
    Secret,
}

/// Whether the file can be used; what is wrong has been reported.
pub(super) fn check(
    context: &mut Context<'_>,
    place: &Place,
    what: &str,
    path: &Path,
    content: Content,
) -> bool {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let message = context.error(code::FILE, place, format!("cannot read the {what} {shown}"));
            let message = message.label(error.to_string());
            message.help(match place.in_file() {
                true => "put it there, or correct the path; a relative one counts from the directory of the configuration file",
                false if path.is_relative() => {
                    "put it there, or correct the path; a relative one counts from the directory that Keyward was started in"
                }
                false => "put it there, or correct the path",
            });
            return false;
        }
    };
    // A pipe or device could block or never end.
    if !metadata.is_file() {
        context.error(
            code::FILE,
            place,
            format!("the {what} {shown} is not a regular file"),
        );
        return false;
    }
    let mode = metadata.permissions().mode() & 0o777;
    // The group may read; others may do nothing; only the owner may write.
    let (write, read) = (mode & 0o022 != 0, mode & 0o004 != 0);
    let refused = match content {
        Content::Public => false,
        Content::Digests => write,
        Content::Secret => write || read,
    };
    if refused {
        let who = match (write, read) {
            (true, _) => "others than its owner may write it",
            _ => "everyone may read it",
        };
        context
            .error(code::FILE_MODE, place, format!("the {what} {shown} is too open"))
            .label(format!("its mode is {mode:04o}: {who}"))
            .help(format!(
                "chmod 0640 {shown} (in Kubernetes: defaultMode: 0440 with fsGroup)"
            ));
        return false;
    }
    if content == Content::Digests && read {
        context
            .warning(
                code::FILE_MODE,
                place,
                format!("everyone may read the {what} {shown}"),
            )
            .label(format!(
                "its mode is {mode:04o}: password digests can be guessed offline"
            ))
            .help(format!("chmod 0640 {shown}"));
    }
    if let Err(error) = std::fs::File::open(path) {
        context
            .error(code::FILE, place, format!("cannot read the {what} {shown}"))
            .label(error.to_string())
            .help("the user that Keyward runs as must be its owner or in its group");
        return false;
    }
    true
}
