//! Would waiting here be a deadlock? A search through who waits for whom, over the records of all processes.
//!
//! A request waits for the live holds and the earlier requests that conflict with it. A hold waits for the requests
//! made inside of it. Only a request made inside a hold can close a cycle. An earlier request that itself waits for a
//! hold of ours is no reason to wait: it cannot go before us anyway, and holds nothing while it waits.

use std::collections::HashSet;

use super::{Holder, Mode};

/// All holds and requests at one instant.
pub(super) struct Graph {
    pub(super) holds: Vec<Holder>,
    pub(super) requests: Vec<Holder>,
}

impl Graph {
    /// The others on a cycle that `request`, made inside the holds `inside`, would close by waiting for who holds.
    pub(super) fn cycle(&self, request: &Holder, inside: &[u64]) -> Option<Vec<Holder>> {
        let mut seen = HashSet::new();
        self.blocking_holds(request).find_map(|hold| self.path_from_hold(hold, inside, &mut seen))
    }

    /// Tells whether an earlier request waits for one of the holds `inside`.
    pub(super) fn waits_for(&self, number: u64, inside: &[u64]) -> bool {
        let request = self.requests.iter().find(|request| request.id == number);
        request.is_some_and(|request| self.path_from_request(request, inside, &mut HashSet::new()).is_some())
    }

    fn path_from_request(&self, request: &Holder, inside: &[u64], seen: &mut HashSet<u64>) -> Option<Vec<Holder>> {
        if !seen.insert(request.id) {
            return None;
        }
        let through_hold = self.blocking_holds(request).find_map(|hold| {
            if inside.contains(&hold.id) { Some(Vec::new()) } else { self.path_from_hold(hold, inside, seen) }
        });
        let earlier = self.requests.iter().filter(|other| other.id < request.id && conflict(other, request));
        let mut path = match through_hold {
            Some(path) => path,
            None => earlier.into_iter().find_map(|other| self.path_from_request(other, inside, seen))?,
        };
        path.insert(0, request.clone());
        Some(path)
    }

    fn path_from_hold(&self, hold: &Holder, inside: &[u64], seen: &mut HashSet<u64>) -> Option<Vec<Holder>> {
        let requests = self.requests.iter().filter(|request| request.inside.contains(&hold.id));
        requests.into_iter().find_map(|request| self.path_from_request(request, inside, seen))
    }

    fn blocking_holds<'a>(&'a self, request: &'a Holder) -> impl Iterator<Item = &'a Holder> {
        self.holds.iter().filter(|hold| conflict(hold, request) && !request.inside.contains(&hold.id))
    }
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

    #[test]
    fn two_that_want_each_others_lock_are_a_cycle() {
        let graph =
            Graph { holds: vec![party(1, &["a"], &[]), party(2, &["b"], &[])], requests: vec![party(3, &["b"], &[1])] };
        let cycle = graph.cycle(&party(4, &["a"], &[2]), &[2]).expect("a cycle");
        assert_eq!(cycle.iter().map(|other| other.id).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn three_in_a_ring_are_a_cycle() {
        let holds = vec![party(1, &["a"], &[]), party(2, &["b"], &[]), party(3, &["c"], &[])];
        let graph = Graph { holds, requests: vec![party(4, &["b"], &[1]), party(5, &["c"], &[2])] };
        assert!(graph.cycle(&party(6, &["a"], &[3]), &[3]).is_some());
    }

    #[test]
    fn waiting_for_a_hold_that_waits_for_nobody_is_none() {
        let graph =
            Graph { holds: vec![party(1, &["a"], &[]), party(2, &["b"], &[])], requests: vec![party(3, &["a"], &[])] };
        assert!(graph.cycle(&party(4, &["a"], &[2]), &[2]).is_none());
    }

    #[test]
    fn outsider_that_waits_for_our_hold_can_be_passed() {
        let graph = Graph { holds: vec![party(1, &["b"], &[])], requests: vec![party(2, &["a", "b"], &[])] };
        assert!(graph.waits_for(2, &[1]));
        assert!(!graph.waits_for(2, &[9]));
    }
}
