//! Chaos: named places where a test build can be made to fail, and switches that bring back known bugs.
//!
//! A harness that has never caught a planted bug proves nothing, so the bugs are planted here, in the product, for
//! builds with the feature `chaos` (`seriatim-chaos`). Without it every function below is empty, and the compiler
//! leaves nothing of it.
//!
//! ```text
//!  SERIATIM_CHAOS = part;part;…      read once by the binary's main ([`arm`])
//!  part           = seed=NUMBER | POINT=ACT@CHANCE | sabotage=NAME,NAME | limit.LIMIT=NUMBER
//!  ACT            = kill (SIGKILL to itself) | panic | sleep:MILLISECONDS
//!  CHANCE         = 1/N      for each time that the process comes by, drawn from the seed and the process id,
//!                            so that a process that is started again does not die at the same place for ever
//!                 | 1/N*TIMES  so, and so many times at most in the life of the process
//!  LIMIT          = keep     log entries of a group that stay after a purge
//!                 | flush    log bytes of a store after which state.db is flushed and logs are purged
//! ```
//! Besides, `SERIATIM_CHAOS_BOOT` names a file by which the process's `BootTime` is bent ([`boot_ms`]).
//!
//! Limits are lowered so that what takes hours of load (purges, snapshots) happens in a run of seconds.
//!
//! # Reading order
//! [`Point`], [`Sabotage`] and [`Limit`] (the lists), then [`hit`], [`sabotaged`] and [`limit`] (what the product
//! calls).

/// Defines an enum with a name for people and a list of all.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $type { $($(#[$variant_doc])* $variant,)* }

        impl $type {
            /// All of them.
            pub const ALL: &[$type] = &[$($type::$variant,)*];
            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name,)* }
            }
            /// By its name.
            pub fn parse(name: &str) -> Option<$type> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }
    };
}

named! {
    /// A place in the product.
    Point {
        /// a batch of the log is built and not written
        LogWriteBefore = "log.write.before",
        /// a batch of the log is on disk and nobody was told
        LogWriteAfter = "log.write.after",
        /// the mark is lowered and the log not yet truncated
        LogTruncate = "log.truncate",
        /// a purge is noted in memory and not sent to the writer
        LogPurge = "log.purge",
        /// a vote, or a lowered mark, is to be written
        VoteWriteBefore = "vote.write.before",
        /// a vote, or a lowered mark, is in one region of the watermark file and not in the other
        VoteWriteBetween = "vote.write.between",
        /// a vote, or a lowered mark, is written and nobody was told
        VoteWriteAfter = "vote.write.after",
        /// a raised mark is to be written
        MarkWriteBefore = "mark.write.before",
        /// a raised mark is written
        MarkWriteAfter = "mark.write.after",
        /// a chunk is to be applied
        ApplyBefore = "apply.before",
        /// a chunk is applied and nobody was answered
        ApplyAfter = "apply.after",
        /// a chunk is applied and everybody was answered
        ApplyAnswered = "apply.answered",
        /// gathered rows are to be written to state.db
        SpillBefore = "spill.before",
        /// gathered rows are written to state.db
        SpillAfter = "spill.after",
        /// state.db is to be flushed
        FlushBefore = "flush.before",
        /// state.db is flushed and nothing purged
        FlushAfter = "flush.after",
        /// a snapshot's moment is taken and nothing sent
        SnapshotBuild = "snapshot.build",
        /// a block of a snapshot is to be sent
        SnapshotSend = "snapshot.send",
        /// a block of a snapshot is received and not written
        SnapshotReceive = "snapshot.receive",
        /// a snapshot is received, checked and on disk
        SnapshotReceived = "snapshot.received",
        /// the intent to install is on disk
        SnapshotIntent = "snapshot.intent",
        /// the old rows are gone or going, the new ones not all there
        SnapshotReplace = "snapshot.replace",
        /// a snapshot is installed and its intent not removed
        SnapshotInstalled = "snapshot.installed",
        /// a replica is noted as born and has no members
        ReplicaBorn = "replica.born",
        /// a replica has its members and is not noted as initialised
        ReplicaInitialised = "replica.initialised",
        /// a replica is noted as rotten and nothing of it is gone
        ReplicaRotten = "replica.rotten",
        /// the log of a rotten replica is gone, its rows may be there, and a new one is not born
        ReplicaRetired = "replica.retired",
        /// a damaged database is set aside, others perhaps not yet
        StoreSetAside = "store.set-aside",
        /// entries are to be sent to a follower
        AppendSend = "append.send",
        /// entries are received from a leader
        AppendReceive = "append.receive",
        /// entries are on disk and the leader was not told
        AppendAnswer = "append.answer",
        /// a heartbeat is received
        HeartbeatReceive = "heartbeat.receive",
        /// a candidate asks
        VoteReceive = "vote.receive",
        /// leadership is handed over
        TransferReceive = "transfer.receive",
        /// a batch of commands is to be proposed
        ProposeBefore = "propose.before",
        /// a batch of commands is applied and its answer goes out
        ProposeAnswered = "propose.answered",
        /// a ReadIndex is confirmed and nothing read
        ReadConfirmed = "read.confirmed",
        /// a lease is renewed and its holder not told
        LeaseRenewed = "lease.renewed",
        /// a lease is to be ended
        LeaseExpire = "lease.expire",
        /// claims are to be proposed
        ClaimSend = "claim.send",
        /// a claim is applied, its holder begins
        ClaimApplied = "claim.applied",
        /// commands of holders are to be proposed
        CommandsSend = "commands.send",
        /// outcomes of commands came, nobody was told
        CommandsOutcome = "commands.outcome",
        /// renewals are to be sent
        RenewSend = "renew.send",
        /// deliveries are to be sent to another node
        DeliverSend = "deliver.send",
        /// deliveries came from another node
        DeliverReceive = "deliver.receive",
        /// deliveries were answered by another node
        DeliverAnswered = "deliver.answered",
        /// entries are to be pushed
        Push = "push",
        /// a request of a gateway is answered
        CallReply = "call.reply",
        /// a device's first frame was taken
        GatewayHello = "gateway.hello",
        /// a request is to be passed on to a logic node
        GatewayCall = "gateway.call",
        /// a logic node's answer came
        GatewayReply = "gateway.reply",
        /// a pushed entry came from a logic node
        GatewayPush = "gateway.push",
    }
}

named! {
    /// A known bug that can be brought back.
    Sabotage {
        /// the log is written without an fsync
        NoFsync = "no-fsync",
        /// a follower answers before the entries are anywhere
        AckBeforeQuorum = "ack-before-quorum",
        /// apply does not look at the epoch of a fence
        FenceAtDoorOnly = "fence-at-door-only",
        /// a holder answers from its buffers after its lease
        SegmentNotFenced = "segment-not-fenced",
        /// a snapshot leaves out which message ids are there
        SnapshotWithoutDedupe = "snapshot-without-dedupe",
        /// a reserved segment's end is not stored
        SegmentReused = "segment-reused",
        /// reads ask neither a quorum nor who leads
        StaleRead = "stale-read",
        /// what an entry holds differs from replica to replica
        MapOrder = "map-order",
        /// the log is purged up to what is applied, on disk or not
        PurgeTooFar = "purge-too-far",
        /// a log that lost its end is taken as it is
        WalCut = "wal-cut",
        /// a token for somebody else's service is taken
        AudienceUnchecked = "audience-unchecked",
        /// a device names its user itself
        UserFromFrame = "user-from-frame",
    }
}

named! {
    /// A bound of the product that a test build can be told to lower. None is part of a promise.
    Limit {
        /// log entries of a group that stay after a purge
        Keep = "keep",
        /// log bytes of a store after which state.db is flushed and logs are purged
        Flush = "flush",
    }
}

#[cfg(feature = "chaos")]
mod boot;

#[cfg(feature = "chaos")]
mod armed {
    use std::collections::BTreeMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::boot::Boot;
    use super::{Limit, Point, Sabotage};

    /// What happens at a point.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Act {
        Kill,
        Panic,
        Sleep(Duration),
    }

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Chance {
        one_in: u64,
        /// in the life of the process
        times_max: u64,
    }

    #[derive(Debug, Default)]
    struct Plan {
        seed: u64,
        acts: BTreeMap<Point, (Act, Chance)>,
        sabotages: Vec<Sabotage>,
        limits: BTreeMap<Limit, u64>,
    }

    impl Plan {
        /// What happens this time; `drawn` counts the draws of the point.
        fn act_at(&self, point: Point, seed: u64, count: u64, drawn: &AtomicU64) -> Option<Act> {
            let (act, chance) = self.acts.get(&point)?;
            let happens =
                is_drawn(seed, point, count, chance.one_in) && drawn.fetch_add(1, Ordering::Relaxed) < chance.times_max;
            happens.then_some(*act)
        }
    }

    static PLAN: OnceLock<Plan> = OnceLock::new();
    static BOOT: OnceLock<Boot> = OnceLock::new();
    static HITS: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];
    static DRAWN: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];

    /// Takes the plan of this process, once, before anything else runs.
    pub fn arm(text: &str) -> Result<(), String> {
        let plan = parse(text)?;
        PLAN.set(plan).map_err(|_| "armed twice".to_owned())
    }

    /// From now on `BootTime` is bent by this file.
    pub fn bend_boot_time(file: std::path::PathBuf) -> Result<(), String> {
        BOOT.set(Boot::new(file)).map_err(|_| "the boot time is bent twice".to_owned())
    }

    /// `BootTime` as it is to be, of what it is, in ms.
    pub fn boot_ms(true_ms: u64) -> u64 {
        BOOT.get().map_or(true_ms, |boot| boot.at(true_ms))
    }

    /// How far `BootTime` is ahead of the truth, ms.
    pub fn boot_off_ms() -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let true_ms = u64::try_from(now.tv_sec * 1_000 + now.tv_nsec / 1_000_000).unwrap_or(0);
        boot_ms(true_ms).cast_signed() - true_ms.cast_signed()
    }

    fn parse(text: &str) -> Result<Plan, String> {
        let mut plan = Plan::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`"))?;
            match name {
                "seed" => plan.seed = value.parse().map_err(|_| format!("`{value}` is no seed"))?,
                "sabotage" => {
                    for name in value.split(',') {
                        let sabotage = Sabotage::parse(name).ok_or_else(|| format!("no sabotage `{name}`"))?;
                        plan.sabotages.push(sabotage);
                    }
                }
                name if name.starts_with("limit.") => {
                    let limit = name.strip_prefix("limit.").and_then(Limit::parse);
                    let limit = limit.ok_or_else(|| format!("no limit `{name}`"))?;
                    let number = value.parse().ok().filter(|number| *number > 0);
                    plan.limits.insert(limit, number.ok_or_else(|| format!("`{value}` is no bound"))?);
                }
                point => {
                    let point = Point::parse(point).ok_or_else(|| format!("no point `{point}`"))?;
                    let (act, chance) = value.split_once('@').ok_or_else(|| format!("`{value}` has no `@`"))?;
                    plan.acts.insert(point, (act_of(act)?, chance_of(chance)?));
                }
            }
        }
        Ok(plan)
    }

    fn act_of(text: &str) -> Result<Act, String> {
        match text.split_once(':') {
            None if text == "kill" => Ok(Act::Kill),
            None if text == "panic" => Ok(Act::Panic),
            Some(("sleep", ms)) => {
                ms.parse().map(|ms| Act::Sleep(Duration::from_millis(ms))).map_err(|_| format!("`{ms}` is no time"))
            }
            _ => Err(format!("no act `{text}`")),
        }
    }

    fn chance_of(text: &str) -> Result<Chance, String> {
        let positive = |number: &str| number.parse().ok().filter(|number| *number > 0);
        let chance = text.strip_prefix("1/").and_then(|rest| {
            let (one_in, times) = rest.split_once('*').map_or((rest, None), |(one_in, times)| (one_in, Some(times)));
            Some(Chance { one_in: positive(one_in)?, times_max: times.map_or(Some(u64::MAX), positive)? })
        });
        chance.ok_or_else(|| format!("`{text}` is no chance; say 1/N or 1/N*TIMES"))
    }

    /// The process came by.
    pub fn hit(point: Point) {
        let count = HITS[point as usize].fetch_add(1, Ordering::Relaxed);
        let Some(plan) = PLAN.get() else { return };
        let seed = plan.seed ^ u64::from(std::process::id());
        match plan.act_at(point, seed, count, &DRAWN[point as usize]) {
            None => {}
            Some(Act::Kill) => {
                // Nothing is flushed, nobody is told, no core file is written.
                eprintln!("chaos: killed at {}", point.name());
                let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                unreachable!("a process may kill itself: {killed:?}");
            }
            Some(Act::Panic) => panic!("chaos: panicked at {}", point.name()),
            Some(Act::Sleep(time)) => std::thread::sleep(time),
        }
    }

    fn is_drawn(seed: u64, point: Point, count: u64, one_in: u64) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_be_bytes());
        hasher.update(point.name().as_bytes());
        hasher.update(&count.to_be_bytes());
        let drawn = hasher.finalize();
        u64::from_be_bytes(*drawn.as_bytes().first_chunk().expect("a hash has 32 bytes")).is_multiple_of(one_in)
    }

    /// Is this bug to be there?
    pub fn sabotaged(sabotage: Sabotage) -> bool {
        PLAN.get().is_some_and(|plan| plan.sabotages.contains(&sabotage))
    }

    /// What this bound is to be, if it is to be another one.
    pub fn limit(limit: Limit) -> Option<u64> {
        PLAN.get()?.limits.get(&limit).copied()
    }

    /// What is another number in each process, as the order of a hash map is.
    pub fn of_this_process() -> u8 {
        static NUMBER: OnceLock<u8> = OnceLock::new();
        *NUMBER.get_or_init(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8).to_be_bytes()[0])
    }

    /// How often the process came by each point.
    pub fn hits() -> Vec<(Point, u64)> {
        Point::ALL.iter().map(|point| (*point, HITS[*point as usize].load(Ordering::Relaxed))).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_plan_says_what_happens_where_and_how_often() {
            let plan =
                parse("seed=7; log.write.after=kill@1/10;apply.before=sleep:20@1/3*4;sabotage=no-fsync").unwrap();
            let always = Chance { one_in: 10, times_max: u64::MAX };
            assert_eq!(plan.acts[&Point::LogWriteAfter], (Act::Kill, always));
            let sleep = Act::Sleep(Duration::from_millis(20));
            assert_eq!(plan.acts[&Point::ApplyBefore], (sleep, Chance { one_in: 3, times_max: 4 }));
            assert_eq!(plan.sabotages, [Sabotage::NoFsync]);
            let drawn = (0..9_000).filter(|count| is_drawn(7, Point::ApplyBefore, *count, 3)).count();
            assert!((2_700..3_300).contains(&drawn), "{drawn}");
            let again = (0..9_000).filter(|count| is_drawn(7, Point::ApplyBefore, *count, 3)).count();
            assert_eq!(drawn, again, "the same seed, the same draws");
        }

        #[test]
        fn an_act_happens_no_more_often_than_it_may() {
            let happens = |text: &str| {
                let (plan, drawn) = (parse(text).unwrap(), AtomicU64::new(0));
                (0..1_000).filter(|count| plan.act_at(Point::Push, 7, *count, &drawn).is_some()).count()
            };
            assert_eq!(happens("push=kill@1/1"), 1_000);
            assert_eq!(happens("push=kill@1/1*3"), 3);
            assert_eq!(happens("push=kill@1/10*3"), 3);
            assert_eq!(happens("log.purge=kill@1/1"), 0);
        }

        #[test]
        fn a_plan_lowers_limits() {
            let plan = parse("seed=7;limit.keep=50;limit.flush=65536").unwrap();
            assert_eq!(plan.limits, BTreeMap::from([(Limit::Keep, 50), (Limit::Flush, 65_536)]));
            assert_eq!(limit(Limit::Keep), None, "a process without a plan has the product's own bounds");
        }

        #[test]
        fn a_wrong_plan_is_refused_with_what_is_wrong() {
            for (text, wrong) in [
                ("log.write.after", "no `=`"),
                ("log.nowhere=kill@1/2", "no point"),
                ("log.write.after=kill", "no `@`"),
                ("log.write.after=dance@1/2", "no act"),
                ("log.write.after=kill@1/0", "no chance"),
                ("log.write.after=kill@1/2*0", "no chance"),
                ("log.write.after=kill@1/2*", "no chance"),
                ("sabotage=no-fsnyc", "no sabotage"),
                ("seed=x", "no seed"),
                ("limit.patience=1", "no limit"),
                ("limit.keep=0", "no bound"),
                ("limit.flush=1MiB", "no bound"),
            ] {
                let error = parse(text).unwrap_err();
                assert!(error.contains(wrong), "{text}: {error}");
            }
        }
    }
}

#[cfg(feature = "chaos")]
pub use armed::{arm, bend_boot_time, boot_ms, boot_off_ms, hit, hits, limit, of_this_process, sabotaged};

/// `BootTime` as it is to be: as it is, in builds without the feature.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn boot_ms(true_ms: u64) -> u64 {
    true_ms
}

/// The process came by. Nothing in builds without the feature.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn hit(_: Point) {}

/// Is this bug to be there? Never in builds without the feature.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn sabotaged(_: Sabotage) -> bool {
    false
}

/// What this bound is to be, if it is to be another one. Never in builds without the feature.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn limit(_: Limit) -> Option<u64> {
    None
}

/// The same in every process: nothing differs from replica to replica.
#[cfg(not(feature = "chaos"))]
#[inline(always)]
pub fn of_this_process() -> u8 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for point in Point::ALL {
            assert_eq!(Point::parse(point.name()), Some(*point));
        }
        for sabotage in Sabotage::ALL {
            assert_eq!(Sabotage::parse(sabotage.name()), Some(*sabotage));
        }
        for limit in Limit::ALL {
            assert_eq!(Limit::parse(limit.name()), Some(*limit));
        }
        assert!(Point::ALL.len() >= 40, "issue 6 asks for forty");
        assert_eq!(Sabotage::ALL.len(), 12);
    }
}
