//! Finds deadlocks: follows the waits between the holders and waiters of all processes and repositories.
//!
//! A request waits for the live holds and the earlier requests that conflict with it. A hold waits for the requests that are
//! made inside of it, in whatever repository. Only a request made inside a hold can close a cycle, so the search starts at the
//! holds around the request and goes back to the requests that wait for them. Each request names the holds around it, and so
//! leads to the next repository. A request does not wait for an earlier one that waits for a hold around it: that one cannot
//! go first, and holds nothing while it waits.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    path::{Path, PathBuf},
};

use super::{Holder, Mode, records::Records};
use crate::holder::HoldId;

/// Most repositories that one search goes through: more can only be garbage.
const MOST_PLACES: usize = 64;

/// The holds and requests of one repository, at one instant.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) holds: Vec<Holder>,
    pub(super) requests: Vec<Holder>,
}

/// The holds and requests of all repositories that a search comes by.
#[derive(Debug)]
pub(super) struct Graph {
    own: PathBuf,
    places: HashMap<PathBuf, Place>,
    /// Directories of records that could not be read: what waits there is not seen.
    pub(super) unread: Vec<PathBuf>,
}

/// The requests that wait, directly or through others, for some holds, and the holds that these requests are made inside of;
/// each with the requests that lead there, the nearest last; for a request that is itself.
#[derive(Debug, Default)]
struct Waiting {
    requests: HashMap<(PathBuf, u64), Vec<Holder>>,
    holds: HashMap<HoldId, Vec<Holder>>,
}

impl Graph {
    /// A graph of which the place with the records `own` is known.
    pub(super) fn new(own: PathBuf, place: Place) -> Self {
        Self { places: HashMap::from([(own.clone(), place)]), own, unread: Vec::new() }
    }

    /// The requests on a cycle that `request` would close by waiting for the holders; the one that it waits for comes first.
    pub(super) fn cycle(&mut self, request: &Holder) -> Option<Vec<Holder>> {
        let waiting = self.waiting_for(&around(request, &self.own));
        let place = self.places.get(&self.own)?;
        let blocking = place.holds.iter().filter(|hold| blocks(hold, request));
        let mut cycles = blocking.filter_map(|hold| waiting.holds.get(&self.id(hold)));
        cycles.find(|path| !path.is_empty()).map(|path| path.iter().rev().cloned().collect())
    }

    /// Numbers of this repository's requests that wait for one of the holds that `request` is inside of.
    pub(super) fn that_wait_for(&mut self, request: &Holder) -> HashSet<u64> {
        let waiting = self.waiting_for(&around(request, &self.own));
        waiting.requests.into_keys().filter(|(place, _)| *place == self.own).map(|(_, number)| number).collect()
    }

    /// The requests on a cycle that somebody inside of `holds` closes by waiting for one that `is_awaited`, that one first.
    pub(super) fn cycle_through(
        &mut self,
        holds: &[HoldId],
        is_awaited: impl Fn(&Path, &Holder) -> bool,
    ) -> Option<Vec<Holder>> {
        let waiting = self.waiting_for(holds).requests;
        let found =
            waiting.into_iter().find(|((place, _), path)| path.last().is_some_and(|last| is_awaited(place, last)));
        found.map(|(_, path)| path.into_iter().rev().collect())
    }

    fn id(&self, hold: &Holder) -> HoldId {
        HoldId { records: self.own.clone(), id: hold.id }
    }

    fn waiting_for(&mut self, holds: &[HoldId]) -> Waiting {
        let mut found = Waiting::default();
        found.holds.extend(holds.iter().map(|hold| (hold.clone(), Vec::new())));
        let mut next: VecDeque<HoldId> = holds.iter().cloned().collect();
        while let Some(id) = next.pop_front() {
            let path = found.holds.get(&id).cloned().unwrap_or_default();
            let Some(place) = self.place(&id.records) else { continue };
            let Some(hold) = place.holds.iter().find(|hold| hold.id == id.id) else { continue };
            for request in place.that_wait_for(hold) {
                let Entry::Vacant(entry) = found.requests.entry((id.records.clone(), request.id)) else { continue };
                let path = entry.insert([path.as_slice(), std::slice::from_ref(request)].concat()).clone();
                for outer in around(request, &id.records) {
                    if !found.holds.contains_key(&outer) {
                        found.holds.insert(outer.clone(), path.clone());
                        next.push_back(outer);
                    }
                }
            }
        }
        found
    }

    /// The holds and requests of a place. They are read once.
    fn place(&mut self, records: &Path) -> Option<&Place> {
        if !self.places.contains_key(records) {
            if self.places.len() >= MOST_PLACES {
                return None;
            }
            let found = Records::elsewhere(records);
            if found.is_err() {
                self.unread.push(records.to_owned());
            }
            let place = found.ok().flatten().map(|records| Place::read(&records)).unwrap_or_default();
            self.places.insert(records.to_owned(), place);
        }
        self.places.get(records)
    }
}

impl Place {
    /// Reads the records of a place.
    pub(super) fn read(records: &Records) -> Self {
        Self { holds: records.table.live(), requests: records.queue.requests() }
    }

    /// The requests that wait for a hold, or behind or for one that does; in their order.
    fn that_wait_for(&self, hold: &Holder) -> Vec<&Holder> {
        let mut waiting: Vec<&Holder> = Vec::new();
        for request in &self.requests {
            let follows = |earlier: &&Holder| conflict(earlier, request) || request.awaits == Some(earlier.id);
            if blocks(hold, request) || waiting.iter().any(follows) {
                waiting.push(request);
            }
        }
        waiting
    }
}

/// The holds that a request in the queue of `records` was made inside of.
fn around(request: &Holder, records: &Path) -> Vec<HoldId> {
    let here = request.inside.iter().map(|id| HoldId { records: records.to_owned(), id: *id });
    here.chain(request.elsewhere.iter().cloned()).collect()
}

fn blocks(hold: &Holder, request: &Holder) -> bool {
    conflict(hold, request) && !request.inside.contains(&hold.id)
}

/// Tells whether two parties ask for, or hold, a resource that they cannot have together.
pub(super) fn conflict(one: &Holder, other: &Holder) -> bool {
    resources_conflict(&one.resources, &other.resources)
}

pub(super) fn resources_conflict(one: &[(String, Mode)], other: &[(String, Mode)]) -> bool {
    one.iter().any(|(key, mode)| other.iter().any(|(other, theirs)| key == other && mode.conflicts_with(*theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(id: u64, names: &[&str], inside: &[u64]) -> Holder {
        Holder {
            id,
            resources: names.iter().map(|name| ((*name).to_owned(), Mode::Exclusive)).collect(),
            inside: inside.to_vec(),
            ..Holder::default()
        }
    }

    fn elsewhere(mut party: Holder, holds: &[(&str, u64)]) -> Holder {
        party.elsewhere = holds.iter().map(|(records, id)| HoldId { records: records.into(), id: *id }).collect();
        party
    }

    fn graph(holds: Vec<Holder>, requests: Vec<Holder>) -> Graph {
        Graph::new("/a/repoguard".into(), Place { holds, requests })
    }

    fn ids(cycle: Option<Vec<Holder>>) -> Vec<u64> {
        cycle.unwrap_or_default().iter().map(|other| other.id).collect()
    }

    #[test]
    fn two_that_want_each_others_lock_are_a_cycle() {
        let mut graph = graph(vec![party(1, &["a"], &[]), party(2, &["b"], &[])], vec![party(3, &["b"], &[1])]);
        assert_eq!(ids(graph.cycle(&party(4, &["a"], &[2]))), [3]);
    }

    #[test]
    fn waiting_for_a_request_that_waits_for_us_is_a_cycle() {
        let holds = vec![party(1, &["a"], &[]), party(2, &["b"], &[])];
        let request = party(4, &["b"], &[]);
        let mut graph = graph(holds, vec![party(3, &["a"], &[2]), request.clone()]);
        let hold = |id| HoldId { records: "/a/repoguard".into(), id };
        let is_it = |_: &Path, other: &Holder| other.id == request.id;
        assert_eq!(ids(graph.cycle_through(&[hold(1)], is_it)), [4, 3], "through another");
        assert_eq!(ids(graph.cycle_through(&[hold(2)], is_it)), [4], "straight");
        assert!(graph.cycle_through(&[], is_it).is_none(), "from outside");
    }

    #[test]
    fn who_waits_for_a_request_waits_for_what_that_one_waits_for() {
        let holds = vec![party(1, &["a"], &[]), party(2, &["b"], &[])];
        let awaiting = |id, request, inside| Holder { awaits: Some(request), ..party(id, &[], &[inside]) };
        let requests = vec![party(3, &["b"], &[]), party(4, &["a"], &[]), awaiting(5, 3, 1)];
        let mut graph = graph(holds, requests);
        let hold = |id| HoldId { records: "/a/repoguard".into(), id };
        assert_eq!(ids(graph.cycle_through(&[hold(2)], |_, other| other.id == 4)), [4, 5]);
        assert_eq!(ids(graph.cycle(&party(6, &["a"], &[2]))), [5]);
        assert!(graph.cycle_through(&[hold(9)], |_, other| other.id == 4).is_none(), "inside something else");
    }

    #[test]
    fn three_in_a_ring_are_a_cycle() {
        let holds = vec![party(1, &["a"], &[]), party(2, &["b"], &[]), party(3, &["c"], &[])];
        let mut graph = graph(holds, vec![party(4, &["b"], &[1]), party(5, &["c"], &[2])]);
        assert_eq!(ids(graph.cycle(&party(6, &["a"], &[3]))), [4, 5]);
    }

    #[test]
    fn waiting_for_a_hold_that_waits_for_nobody_is_none() {
        let mut graph = graph(vec![party(1, &["a"], &[]), party(2, &["b"], &[])], vec![party(3, &["a"], &[])]);
        assert!(graph.cycle(&party(4, &["a"], &[2])).is_none());
    }

    #[test]
    fn outsider_that_waits_for_our_hold_can_be_passed() {
        let mut graph = graph(vec![party(1, &["b"], &[])], vec![party(2, &["a", "b"], &[]), party(3, &["a"], &[])]);
        assert_eq!(graph.that_wait_for(&party(0, &["a"], &[1])), HashSet::from([2, 3]), "the second behind the first");
        assert!(graph.that_wait_for(&party(0, &["a"], &[9])).is_empty());
    }

    #[test]
    fn ring_over_three_repositories_is_a_cycle() {
        let mut graph = graph(vec![party(1, &["w"], &[])], Vec::new());
        let b = Place {
            holds: vec![party(1, &["w"], &[])],
            requests: vec![elsewhere(party(7, &["w"], &[]), &[("/c", 5)])],
        };
        let c = Place {
            holds: vec![party(5, &["w"], &[])],
            requests: vec![elsewhere(party(8, &["w"], &[]), &[("/a/repoguard", 1)])],
        };
        graph.places.extend([("/b".into(), b), ("/c".into(), c)]);
        let request = elsewhere(party(9, &["w"], &[]), &[("/b", 1)]);
        assert_eq!(ids(graph.cycle(&request)), [8, 7]);
        assert!(graph.cycle(&elsewhere(party(9, &["w"], &[]), &[("/b", 2)])).is_none(), "another hold");
    }

    #[test]
    fn place_that_cannot_be_ours_is_not_read() {
        let mut graph = graph(Vec::new(), Vec::new());
        assert!(graph.cycle(&elsewhere(party(9, &["w"], &[]), &[("/etc", 2), ("src/repoguard", 1)])).is_none());
        assert_eq!(graph.unread.len(), 2);
    }
}
