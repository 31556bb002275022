//! Order: does an order that the seqs dictate agree with real time?
//!
//! The seqs say which operation took effect before which; the clock says when each was under way. Both can be true at
//! once if and only if no operation ended before one began that precedes it. One sweep in the order of the seqs finds
//! all that did, by keeping the latest beginning so far.
//! ```text
//!  place 4   ├── call ───── ret ──┤
//!  place 5                             ├── call …      fine: 5 began after 4 ended, or beside it
//!  place 4                             ├── call …
//!  place 5   ├── call ───── ret ──┤                    breach: 5 ended before 4 began
//! ```
//! Intervals are closed: what ends in the nanosecond in which another begins is beside it.

/// An operation at its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed<T> {
    /// a seq, and a rank at the same seq; equal places are not ordered among each other
    pub(crate) place: (u64, u8),
    /// when it began; 0 if what it constrains lies below it only
    pub(crate) call: u64,
    /// when it had ended; `u64::MAX` if never
    pub(crate) ret: u64,
    /// what it is
    pub(crate) what: T,
}

/// Two operations whose places and times contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Breach<T> {
    /// has the lower place, and began after the other had ended
    pub(crate) low: Placed<T>,
    /// has the higher place
    pub(crate) high: Placed<T>,
}

/// Hands every operation that ended before one of a lower place began to `found`, each once, with the latest of those.
pub(crate) fn sweep<T: Copy>(mut placed: Vec<Placed<T>>, mut found: impl FnMut(Breach<T>)) {
    placed.sort_by_key(|one| one.place);
    let mut latest: Option<Placed<T>> = None;
    for group in placed.chunk_by(|one, other| one.place == other.place) {
        if let Some(low) = latest {
            group.iter().filter(|high| high.ret < low.call).for_each(|high| found(Breach { low, high: *high }));
        }
        let began_last = group.iter().copied().max_by_key(|one| one.call);
        latest = latest.into_iter().chain(began_last).max_by_key(|one| one.call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(place: u64, call: u64, ret: u64) -> Placed<u64> {
        Placed { place: (place, 0), call, ret, what: place }
    }

    fn breaches(placed: Vec<Placed<u64>>) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        sweep(placed, |breach| found.push((breach.low.what, breach.high.what)));
        found
    }

    #[test]
    fn an_operation_that_ended_before_a_lower_one_began_is_found() {
        assert_eq!(breaches(vec![placed(5, 0, 10), placed(4, 11, 20), placed(6, 12, 13)]), [(4, 5)]);
    }

    #[test]
    fn operations_beside_each_other_are_in_any_order() {
        assert_eq!(breaches(vec![placed(5, 0, 10), placed(4, 10, 20), placed(4, 40, 50)]), [(4, 5)]);
        assert_eq!(breaches(vec![placed(5, 0, 10), placed(4, 10, 20)]), []);
    }
}
