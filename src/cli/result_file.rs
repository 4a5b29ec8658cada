//! Writes the outcome of a run to the file that `--result-file` names.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

use super::render::Ui;

/// The file, open since before the run: a path that cannot be written is an error before anything has happened.
pub(super) struct ResultFile(Option<(PathBuf, File)>);

impl ResultFile {
    /// Creates the file, if the user wants one.
    pub(super) fn create(path: Option<&Path>) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "the user's own file, wherever it leads")]
        let create = |path: &Path| {
            let file = File::create(path);
            let file = file.with_context(|| format!("cannot create the result file `{}`", path.display()))?;
            anyhow::Ok((path.to_owned(), file))
        };
        Ok(Self(path.map(create).transpose()?))
    }

    /// Writes the report. A failure is said, and changes no status: what happened has happened, and a caller that does it again
    /// because of this does it twice.
    pub(super) fn write(self, ui: &Ui, report: impl FnOnce() -> Value) {
        let Self(Some((path, mut file))) = self else { return };
        let written = file.write_all(format!("{}\n", report()).as_bytes());
        if let Err(error) = written.with_context(|| format!("cannot write the result file `{}`", path.display())) {
            ui.error(&error);
        }
    }
}
