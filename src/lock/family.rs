//! Is it already ours? Which holds is this process inside of, and does that cover or forbid what it asks for?
//!
//! Three ways to know, because each can be missing: the token in the environment (checked against the live record), a
//! descriptor that we inherited (plain flock(1)'s, too), the holder among our ancestors. A stale or forged token is
//! ignored.

use super::{
    Holder, Mode,
    file::{LockFile, inherited_locks},
    record::Table,
    request::{PartPlan, Plan},
};
use crate::{
    env,
    error::{Error, Result},
    repo::{REPO_KEY, hex},
    sys,
};

/// Marks a token that was given out inside the hold.
const NESTED: &str = "/inside";

/// The secret of a hold: who knows it is inside, on purpose.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Makes a new secret for the hold with this fencing number.
    pub(crate) fn new(fence: u64) -> Result<Self> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|_| Error::Unsupported { what: "a source of random numbers" })?;
        Ok(Self(format!("{fence}-{}", hex(&secret))))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A token that somebody shows.
    pub(crate) fn shown(text: &str) -> Self {
        Self(nested_parts(text).map_or(text, |(_, token)| token).to_owned())
    }

    /// What is given out instead of a token where everything is held around the caller already, by the hold with this
    /// fencing number (0 where it is flock(1)'s): who shows it is inside like its giver, but cannot end the hold.
    ///
    /// `<fence>/<the giver's own token>/inside`: who is inside by a token alone stays so.
    pub(crate) fn nested(outer: u64) -> String {
        let own = env::text(env::TOKEN).map_or_else(String::new, |token| Self::shown(&token).0);
        format!("{outer}/{own}{NESTED}")
    }

    /// The fencing number of the hold that a text of [`Token::nested`] was given out in; `None` for other texts.
    pub(crate) fn outer(text: &str) -> Option<u64> {
        nested_parts(text).map(|(outer, _)| outer)
    }

    /// What is recorded of it.
    pub(crate) fn digest(&self) -> String {
        use sha2::Digest as _;
        hex(&sha2::Sha256::digest(self.0.as_bytes()))
    }
}

/// The two parts of a text of [`Token::nested`].
fn nested_parts(text: &str) -> Option<(u64, &str)> {
    let (outer, token) = text.strip_suffix(NESTED)?.split_once('/')?;
    Some((outer.parse().ok()?, token))
}

/// The holds that this process is inside of.
#[derive(Debug, Default)]
pub(crate) struct Family {
    holds: Vec<Holder>,
}

/// What remains to be asked for.
pub(super) enum Cover {
    /// Everything is held around us.
    Whole,
    /// The plan was reduced to what is not.
    Partly,
}

impl Family {
    /// Finds the hold of the token in the environment, and those around it. Cheap without a token.
    pub(crate) fn by_token(table: Option<&Table>) -> Self {
        let (Some(token), Some(table)) = (env::text(env::TOKEN), table) else { return Self::default() };
        let digest = Token::shown(&token).digest();
        let live = table.live_slots();
        let ours = live.iter().filter(|(slot, hold)| {
            // A slot may be locked for an instant by somebody who is about to take it over, under an old record.
            hold.token_sha256.as_deref() == Some(&digest) && (runs(hold) || !inherited_locks(*slot).is_empty())
        });
        let ids = ours.map(|(_, hold)| hold.id).collect();
        Self { holds: with_outer(ids, &live) }
    }

    /// Finds the holds by inherited descriptors and by ancestors; costs a walk through `/proc`.
    pub(crate) fn by_kinship(table: Option<&Table>) -> Self {
        let Some(table) = table else { return Self::default() };
        let live = table.live_slots();
        if live.is_empty() {
            return Self::default();
        }
        let ancestors: Vec<u32> = sys::ancestors().collect();
        let ours = live.iter().filter(|(slot, hold)| {
            let pids = [Some(hold.pid), hold.keeper];
            let ancestor = same_pids(hold)
                && pids
                    .into_iter()
                    .flatten()
                    .any(|pid| ancestors.contains(&pid) && sys::still_runs(pid, hold.boot_ms) == Some(true));
            ancestor || !inherited_locks(*slot).is_empty()
        });
        let ids = ours.map(|(_, hold)| hold.id).collect();
        Self { holds: with_outer(ids, &live) }
    }

    /// Adds the holds of another way to know.
    pub(crate) fn join(&mut self, other: Self) {
        let known = self.ids();
        self.holds.extend(other.holds.into_iter().filter(|hold| !known.contains(&hold.id)));
    }

    /// The fencing number of a hold around us; 0 where it has none.
    pub(super) fn outer(&self) -> u64 {
        self.holds.first().map_or(0, |hold| hold.id)
    }

    /// Fencing numbers of all holds around us.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.holds.iter().map(|hold| hold.id).collect()
    }

    /// Takes out of the plan what is held around us.
    ///
    /// # Errors
    /// [`Error::NeverGranted`] when what is held around us excludes what is asked for.
    pub(super) fn reduce(&self, plan: &mut Plan) -> Result<Cover> {
        let mut covered = Vec::new();
        for (key, wanted) in &plan.resources {
            for hold in &self.holds {
                let everything = hold.resources.iter().any(|(key, mode)| key == REPO_KEY && *mode == Mode::Exclusive);
                let held = hold.resources.iter().find(|(other, _)| other == key).map(|(_, mode)| *mode);
                match held.or(everything.then_some(Mode::Exclusive)) {
                    Some(mode) if plan.content || mode.covers(*wanted) => covered.push(key.clone()),
                    Some(_) => {
                        let why = if key == REPO_KEY {
                            "everything cannot be locked from inside a part of it"
                        } else {
                            "a shared hold cannot become exclusive"
                        };
                        return Err(Error::NeverGranted { what: plan.what.clone(), held: hold.scope.clone(), why });
                    }
                    None => {}
                }
            }
        }
        plan.resources.retain(|(key, _)| !covered.contains(key));
        plan.parts.retain(|part| !covered.contains(&part.resource));
        Ok(if plan.resources.is_empty() { Cover::Whole } else { Cover::Partly })
    }
}

/// Tells whether one file of a plan is locked around us without a record: by flock(1), or where no records are kept.
///
/// # Errors
/// [`Error::NeverGranted`] when it is locked shared around us, and asked for exclusively.
pub(super) fn locked_around_us(part: &PartPlan, file: &LockFile, plan: &Plan) -> Result<bool> {
    let mut modes = inherited_locks(file.id());
    // Where the descriptor was closed for us (`flock -o`), the process that took the lock may still be above us.
    let ancestors: Vec<u32> = sys::ancestors().collect();
    let kernel = sys::kernel_locks(&[file.id()]);
    modes.extend(kernel.locks.iter().filter(|lock| ancestors.contains(&lock.pid)).map(|lock| lock.exclusive));
    if modes.is_empty() {
        return Ok(false);
    }
    let exclusive = modes.contains(&true);
    if part.mode == Mode::Exclusive && !exclusive && !plan.content {
        let held = format!("`{}`", part.path.display());
        let why = "a shared hold cannot become exclusive";
        return Err(Error::NeverGranted { what: plan.what.clone(), held, why });
    }
    Ok(true)
}

/// Tells whether a process of the hold still runs; where its pids mean nothing here, its locked slot must do.
fn runs(hold: &Holder) -> bool {
    let pids = [Some(hold.pid), hold.keeper];
    !same_pids(hold) || pids.into_iter().flatten().any(|pid| sys::still_runs(pid, hold.boot_ms) != Some(false))
}

fn same_pids(hold: &Holder) -> bool {
    hold.pid_namespace == sys::pid_namespace()
}

fn with_outer(mut ids: Vec<u64>, live: &[(sys::FileId, Holder)]) -> Vec<Holder> {
    let mut holds: Vec<Holder> = Vec::new();
    while let Some(id) = ids.pop() {
        let known = holds.iter().any(|hold| hold.id == id);
        if let Some((_, hold)) = live.iter().find(|(_, hold)| !known && hold.id == id) {
            ids.extend(&hold.inside);
            holds.push(hold.clone());
        }
    }
    holds
}
