//! Writes staged changes of a shared document.

use repoguard::state::StateFile;

use super::{Context, render};

/// Writes the staged changes, and reports the writer before us.
pub(super) fn flush(context: &Context, state: &StateFile) -> anyhow::Result<bool> {
    let path = state.path().display();
    let observer = &mut |waited, pid: Option<u32>| {
        let who = pid.map_or_else(|| "whoever".to_owned(), |pid| format!("pid {pid}, which"));
        context.ui.say(&format!("waiting {} for {who} writes to `{path}`", render::duration(waited)));
    };
    Ok(state.flush_reporting(observer)?)
}
