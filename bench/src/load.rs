//! Load: calls of whatever system, as many as go or so many a second, each timed until it is answered.
//!
//! The same loop drives every system, so that they differ in nothing but themselves. An offered append is timed from the
//! moment at which it was due, so that a stall counts for every append that it holds up (the "coordinated omission" of
//! Gil Tene).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::Notify;

/// A system that takes calls (appends, say) and answers each when it is done.
pub(crate) trait System {
    /// Takes a call under this number, which was never used before. It goes out with the next flush.
    fn submit(&mut self, number: u64) -> anyhow::Result<()>;
    /// Lets out what was submitted.
    async fn flush(&mut self) -> anyhow::Result<()>;
    /// Waits for answers, and says which calls are done. May be dropped and called again: none is lost.
    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()>;
}

/// How much is asked of a system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    /// most calls without an answer
    pub(crate) in_flight: usize,
    /// calls offered a second; `None`: as many as go
    pub(crate) rate: Option<f64>,
    /// before anything counts
    pub(crate) warm_up: Duration,
    /// what counts
    pub(crate) measured: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Times {
    /// answered within the measured time
    pub(crate) acked: u64,
    /// the measured time
    pub(crate) over: Duration,
    /// at full speed of each of these, from when it was sent; of offered ones of each that was due within the measured
    /// time, from then; to its answer, rising
    pub(crate) took: Vec<Duration>,
}

impl Times {
    pub(crate) fn per_s(&self) -> f64 {
        self.acked as f64 / self.over.as_secs_f64()
    }

    /// The smallest time that so many of a hundred do not exceed (nearest rank), 0 for none.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.took.len() as f64).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

/// Numbers of calls, over all phases of a system.
#[derive(Default, Debug)]
pub(crate) struct Numbers {
    next: u64,
}

impl Numbers {
    /// How many were used.
    pub(crate) fn count(&self) -> u64 {
        self.next
    }
}

/// Runs a phase to its end: every call of it is answered.
///
/// # Errors
/// The system's own, or no answer for [`PATIENCE`].
pub(crate) async fn run(system: &mut impl System, numbers: &mut Numbers, phase: Phase) -> anyhow::Result<Times> {
    let began = Instant::now();
    let (from, end) = (began + phase.warm_up, began + phase.warm_up + phase.measured);
    let pacer = phase.rate.map(|rate| Pacer::start(began, end, rate)).transpose()?;
    let mut open: HashMap<u64, Instant> = HashMap::with_capacity(phase.in_flight);
    let mut sent = 0u64;
    // A vector that grows while it is measured would be measured.
    let expected = phase.rate.unwrap_or_default() * phase.measured.as_secs_f64() * 1.1;
    let mut times = Times { acked: 0, over: phase.measured, took: Vec::with_capacity(expected as usize) };
    let mut answered = Vec::new();
    loop {
        let now = Instant::now();
        // All that was offered is asked, however late: it counts.
        let is_over = now >= end && pacer.as_ref().is_none_or(|pacer| pacer.has_ended() && sent >= pacer.due());
        while !is_over && open.len() < phase.in_flight {
            let due = match &pacer {
                None => now,
                Some(pacer) if sent < pacer.due() => pacer.due_at(sent),
                Some(_) => break,
            };
            system.submit(numbers.next)?;
            open.insert(numbers.next, due);
            numbers.next += 1;
            sent += 1;
        }
        system.flush().await?;
        if is_over && open.is_empty() {
            break;
        }
        let may_send = !is_over && open.len() < phase.in_flight;
        tokio::select! {
            biased;
            result = system.answers(&mut answered) => result?,
            () = async { pacer.as_ref().expect("guarded").tick.notified().await }, if may_send && pacer.is_some() => {}
            () = tokio::time::sleep(PATIENCE) => ensure!(open.is_empty(), "no answer for {PATIENCE:?}"),
        }
        let now = Instant::now();
        for number in answered.drain(..) {
            let due = open.remove(&number).with_context(|| format!("call {number} was answered twice"))?;
            if from <= now && now < end {
                times.acked += 1;
            }
            // At full speed by its answer, offered by when it was due, whenever that was answered.
            let counts_at = if pacer.is_some() { due } else { now };
            if from <= counts_at && counts_at < end {
                times.took.push(now.saturating_duration_since(due));
            }
        }
    }
    times.took.sort_unstable();
    Ok(times)
}

/// The number of calls in flight that suits a system best, from few to as many as allowed.
pub(crate) async fn calibrate(
    system: &mut impl System,
    numbers: &mut Numbers,
    in_flight_max: usize,
) -> anyhow::Result<usize> {
    let mut best = (0.0, in_flight_max);
    for in_flight in std::iter::successors(Some(IN_FLIGHT_LEAST), |count| Some(count * 4)) {
        let in_flight = in_flight.min(in_flight_max);
        let phase = Phase { in_flight, rate: None, warm_up: CALIBRATION / 2, measured: CALIBRATION };
        let per_s = run(system, numbers, phase).await?.per_s();
        if per_s > best.0 {
            best = (per_s, in_flight);
        }
        if in_flight == in_flight_max {
            break;
        }
    }
    Ok(best.1)
}

/// Says how many calls are due, from a thread of its own: the runtime's timers are up to a millisecond late by their
/// making, a thread's sleep by a twentieth of that.
struct Pacer {
    began: Instant,
    rate: f64,
    shared: Arc<Shared>,
    tick: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    due: AtomicU64,
    ended: AtomicBool,
}

impl Pacer {
    fn start(began: Instant, end: Instant, rate: f64) -> anyhow::Result<Self> {
        let (shared, tick) = (Arc::<Shared>::default(), Arc::<Notify>::default());
        let (theirs, ticks) = (Arc::clone(&shared), Arc::clone(&tick));
        let run = move || {
            while !theirs.ended.load(Ordering::Relaxed) {
                let due = theirs.due.load(Ordering::Relaxed) + 1;
                // Several that are due within a tick go together.
                let at = (began + Duration::from_secs_f64((due - 1) as f64 / rate)).max(Instant::now() + TICK);
                std::thread::sleep(at.min(end).saturating_duration_since(Instant::now()));
                let now = Instant::now().min(end);
                let due = ((now - began).as_secs_f64() * rate) as u64 + 1;
                theirs.due.store(due, Ordering::Relaxed);
                if now == end {
                    theirs.ended.store(true, Ordering::Release);
                }
                ticks.notify_one();
            }
        };
        let thread = std::thread::Builder::new().name("pacer".to_owned()).spawn(run).context("start the pacer")?;
        Ok(Self { began, rate, shared, tick, thread: Some(thread) })
    }

    /// How many are due by now.
    fn due(&self) -> u64 {
        self.shared.due.load(Ordering::Relaxed)
    }

    /// Nothing more comes to be due.
    fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    fn due_at(&self, call: u64) -> Instant {
        self.began + Duration::from_secs_f64(call as f64 / self.rate)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends at its next tick; a panic of it has ended the process.
            let _ = thread.join();
        }
    }
}

/// Fewest calls in flight that are tried.
pub(crate) const IN_FLIGHT_LEAST: usize = 64;
/// How long a number of calls in flight is tried.
const CALIBRATION: Duration = Duration::from_secs(1);
/// Longest wait for any answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_micros(250);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Answers each append so long after it was flushed.
    struct Slow {
        delay: Duration,
        waiting: VecDeque<(u64, Instant)>,
        most: usize,
        seen: u64,
    }

    impl System for Slow {
        fn submit(&mut self, number: u64) -> anyhow::Result<()> {
            assert_eq!(number, self.seen, "numbers rise");
            self.seen += 1;
            self.waiting.push_back((number, Instant::now() + self.delay));
            self.most = self.most.max(self.waiting.len());
            Ok(())
        }

        async fn flush(&mut self) -> anyhow::Result<()> {
            Ok(())
        }

        async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
            match self.waiting.front() {
                None => std::future::pending().await,
                Some((_, at)) => tokio::time::sleep_until((*at).into()).await,
            }
            let now = Instant::now();
            while let Some((number, _)) = self.waiting.pop_front_if(|(_, at)| *at <= now) {
                into.push(number);
            }
            Ok(())
        }
    }

    fn slow() -> Slow {
        Slow { delay: Duration::from_millis(5), waiting: VecDeque::new(), most: 0, seen: 0 }
    }

    #[tokio::test]
    async fn at_full_speed_no_more_are_open_than_may_be() {
        let (mut system, mut numbers) = (slow(), Numbers::default());
        let measured = Duration::from_millis(200);
        let phase = Phase { in_flight: 8, rate: None, warm_up: Duration::from_millis(20), measured };
        let times = run(&mut system, &mut numbers, phase).await.unwrap();
        assert_eq!(system.most, 8);
        assert!(system.waiting.is_empty(), "all were answered");
        assert!(times.acked > 0 && times.acked < numbers.next, "the warm-up does not count");
        assert_eq!(times.took.len() as u64, times.acked);
        assert!(times.took[0] >= system.delay);
    }

    #[tokio::test]
    async fn what_is_offered_and_held_up_is_timed_from_when_it_was_due() {
        let (mut system, mut numbers) = (slow(), Numbers::default());
        // One at a time, of which the system does 200 a second at most: half of what is offered waits ever longer.
        let measured = Duration::from_millis(400);
        let phase = Phase { in_flight: 1, rate: Some(400.0), warm_up: Duration::ZERO, measured };
        let times = run(&mut system, &mut numbers, phase).await.unwrap();
        assert!(times.percentile_ms(100.0) > 300.0, "those at the end count too: {:?}", times.took.last());
        assert_eq!((numbers.next, times.took.len()), (161, 160), "all that was offered before the end");
        let (mut system, mut numbers) = (slow(), Numbers::default());
        let phase = Phase { in_flight: 64, rate: Some(400.0), warm_up: Duration::ZERO, measured };
        let times = run(&mut system, &mut numbers, phase).await.unwrap();
        assert_eq!((numbers.next, times.took.len()), (161, 160), "no more than were due");
    }
}
