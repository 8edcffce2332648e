//! `keyward dev` (being written)
use super::Exit;
pub(super) fn dev(_once: bool) -> anyhow::Result<Exit> {
    Ok(Exit::Failed)
}
