//! Guards plain git: for somebody who types `git commit`, the hooks take the lock.
//!
//! | file | what |
//! | --- | --- |
//! | `event` | the hooks that take part, and what is known of each |
//! | `run` | what each hook does when git calls it |
//! | `git` | which git called, and what for |
//! | `hint` | how the user of a refused command gets on |
//! | `transaction` | whether a change of references may be refused |
//! | `world` | whether somebody changed what a git command was about to use |
//! | `install` | puts the scripts in place, beside what was there |
//! | `uninstall` | takes them away again, and puts back what was there |
//! | `survey` | tells of each hook whether git reaches it |
//! | `place` | where git looks for hooks here, and whether they may be written there |
//! | `slot` | the files of one hook: what git runs, what was kept beside it, where others put ours |
//! | `script` | the text of the scripts, and how to recognise it |
//! | `managers` | other programs that install hooks, and how to recognise them |
//! | `manifest` | what was installed here |
//! | `change` | several changes to files as one: all or none |

mod change;
mod event;
mod git;
mod hint;
mod install;
mod managers;
mod manifest;
mod place;
mod run;
mod script;
mod slot;
mod survey;
mod transaction;
mod uninstall;
mod world;

use std::path::{Path, PathBuf};

use crate::repo::Repo;

pub use event::Event;
pub use install::{ByHand, Installed, Options, Report, install};
pub use place::HooksPath;
pub use run::{Call, Input, Refusal, read_input, run};
pub use script::IfMissing;
pub use survey::{Seen, State, Survey, survey};
pub use uninstall::{Removed, Uninstalled, uninstall};

/// The exit status by which a hook that is only tried answers.
pub const ANSWER: i32 = 42;

/// The suffix of a hook that was there before ours.
const CHAINED: &str = ".repoguard-chained";
/// The suffix that pre-commit and prek give to a hook that they find, and then run before their own.
const LEGACY: &str = ".legacy";

/// Tells whether a script is one that git's configuration names: git runs others after it.
fn is_configured_script(repo: &Repo, script: &Path) -> bool {
    let ours = repo.hook_scripts().and_then(|directory| directory.canonicalize().ok());
    ours.is_some() && script.parent().and_then(|directory| directory.canonicalize().ok()) == ours
}

/// The hook that was in the place of our script. `None` if another program moved our script away and runs such hooks itself.
fn chained(script: &Path, event: Event) -> Option<PathBuf> {
    let (name, path) = (script.file_name()?, script.with_file_name(format!("{}{CHAINED}", event.name())));
    if name == event.name() {
        return Some(path);
    }
    // Those who run us as what they found must not be run by us: they would run us again.
    (name == &*format!("{}{LEGACY}", event.name())
        && !slot::read(&path).is_some_and(|text| managers::runs_legacy(&text)))
    .then_some(path)
}
