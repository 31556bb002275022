//! Quota: how much each tenant and each of its users may ask of this node, as token buckets (Turner, 1986) of one
//! second's worth.
//!
//! A request counts against all of its limits or against none.

use std::collections::BTreeMap;

use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::meta::{Limit, TenantRecord};

/// Users and tenants kept before those that could ask for a whole second's worth are forgotten: they lose nothing.
const KEPT: usize = 16_384;
/// Parts of one unit that a bucket counts in: a bucket gains `per_s` parts each millisecond.
const PARTS: i64 = 1_000;
/// Seconds' worth that a bucket owes at most, after a body larger than that or a rate that was lowered.
const DEBT_S: i64 = 10;
/// What costs more than this part of a second's worth waits for no more than it: small requests would starve it.
const WANTED_PART: u32 = 10;
/// Retry hints are never longer: a limit may have been raised by then.
const RETRY_MS_MAX: u32 = 1_000;

fn rate_of(
    rates: &BTreeMap<Limit, u32>,
    limited: &BTreeMap<TenantId, BTreeMap<Limit, u32>>,
    tenant: TenantId,
    limit: Limit,
) -> u32 {
    let own = limited.get(&tenant).and_then(|limits| limits.get(&limit));
    own.or_else(|| rates.get(&limit)).copied().unwrap_or_else(|| limit.default_per_s())
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// a send, a change of a group, a cancel, with so many bytes of body
    Write {
        /// of the body
        bytes: u32,
    },
    /// a sync, a history, a query, an ack
    Read,
    /// one of the sequence service
    Sequence,
}

/// A request beyond a limit. Nothing of it was counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// the one to wait longest for
    pub limit: Limit,
    /// its rate
    pub per_s: u32,
    /// milliseconds after which there is room, if nobody else takes it
    pub retry_ms: u32,
}

/// The buckets of all tenants and users.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Quotas {
    /// the node's own
    rates: BTreeMap<Limit, u32>,
    /// what tenants have of their own
    limited: BTreeMap<TenantId, BTreeMap<Limit, u32>>,
    tenants: BTreeMap<TenantId, Tenant>,
    sweep_at: usize,
    kept: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Tenant {
    buckets: Buckets,
    users: BTreeMap<UserId, Buckets>,
}

/// A bucket that was never taken from is full, and absent.
type Buckets = BTreeMap<Limit, Bucket>;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Bucket {
    /// below 0 after a body larger than a second's worth
    parts: i64,
    at_ms: u64,
}

impl Quotas {
    /// With the node's own rates, where they differ from the defaults.
    pub fn new(own: &BTreeMap<Limit, u32>) -> Self {
        let rate = |limit: &Limit| (*limit, own.get(limit).copied().unwrap_or_else(|| limit.default_per_s()));
        let rates = Limit::ALL.iter().map(rate).collect();
        Self { rates, limited: BTreeMap::new(), tenants: BTreeMap::new(), sweep_at: KEPT, kept: 0 }
    }

    /// Takes over what the directory says. Says whether it is new.
    pub fn set_tenants(&mut self, records: &[TenantRecord]) -> bool {
        let limited = records.iter().map(|record| (record.id, record.limits.clone())).collect();
        let changed = self.limited != limited;
        self.limited = limited;
        changed
    }

    /// What holds for a tenant here.
    pub fn rate(&self, tenant: TenantId, limit: Limit) -> u32 {
        rate_of(&self.rates, &self.limited, tenant, limit)
    }

    /// Counts one request.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn take(&mut self, now_ms: u64, tenant: TenantId, user: &UserId, ask: Ask) -> Result<(), Over> {
        let (of_tenant, of_user): (&[(Limit, u32)], Option<Limit>) = match ask {
            Ask::Write { bytes } => (&[(Limit::TenantWrites, 1), (Limit::TenantBytes, bytes)], Some(Limit::UserWrites)),
            Ask::Read => (&[(Limit::TenantReads, 1)], Some(Limit::UserReads)),
            Ask::Sequence => (&[(Limit::SequenceRequests, 1)], None),
        };
        self.sweep(now_ms);
        let (rates, limited) = (&self.rates, &self.limited);
        let rate = |limit| rate_of(rates, limited, tenant, limit);
        let mut over = None::<Over>;
        let known = self.tenants.get(&tenant);
        let user_buckets = known.and_then(|known| known.users.get(user));
        let tenant_buckets = known.map(|known| &known.buckets);
        let mut look = |buckets: Option<&Buckets>, limit: Limit, cost: u32| {
            let per_s = rate(limit);
            let parts = Bucket::filled(buckets.and_then(|buckets| buckets.get(&limit)), now_ms, per_s);
            if let Some(retry_ms) = Bucket::wait_ms(parts, per_s, cost)
                && over.is_none_or(|over| over.retry_ms < retry_ms)
            {
                over = Some(Over { limit, per_s, retry_ms });
            }
        };
        if let Some(limit) = of_user {
            look(user_buckets, limit, 1);
        }
        of_tenant.iter().for_each(|(limit, cost)| look(tenant_buckets, *limit, *cost));
        if let Some(over) = over {
            return Err(over);
        }
        let known = self.tenants.entry(tenant).or_insert_with(|| {
            self.kept += 1;
            Tenant::default()
        });
        for (limit, cost) in of_tenant {
            Bucket::take(&mut known.buckets, now_ms, *limit, rate(*limit), *cost);
        }
        if let Some(limit) = of_user {
            if !known.users.contains_key(user) {
                self.kept += 1;
                known.users.insert(user.clone(), Buckets::new());
            }
            let buckets = known.users.get_mut(user).expect("put there above");
            Bucket::take(buckets, now_ms, limit, rate(limit), 1);
        }
        Ok(())
    }

    /// Counts requests of the sequence service, as many of these as there is room for; and why not all.
    pub fn take_counts(&mut self, now_ms: u64, tenant: TenantId, requests: u32) -> (u32, Option<Over>) {
        self.sweep(now_ms);
        let limit = Limit::SequenceRequests;
        let per_s = self.rate(tenant, limit);
        let known = self.tenants.entry(tenant).or_insert_with(|| {
            self.kept += 1;
            Tenant::default()
        });
        let parts = Bucket::filled(known.buckets.get(&limit), now_ms, per_s);
        let room = u32::try_from(parts / PARTS).unwrap_or(if parts < 0 { 0 } else { u32::MAX });
        let taken = requests.min(room);
        Bucket::take(&mut known.buckets, now_ms, limit, per_s, taken);
        let over = (taken < requests).then(|| {
            let left = parts - i64::from(taken) * PARTS;
            Over { limit, per_s, retry_ms: Bucket::wait_ms(left, per_s, 1).unwrap_or(1) }
        });
        (taken, over)
    }

    /// Forgets whoever could ask for a whole second's worth, once there are twice as many as after the last time.
    fn sweep(&mut self, now_ms: u64) {
        if self.kept < self.sweep_at {
            return;
        }
        let mut tenants = std::mem::take(&mut self.tenants);
        for (id, tenant) in &mut tenants {
            let full = |limit: &Limit, bucket: &Bucket| {
                let per_s = self.rate(*id, *limit);
                Bucket::filled(Some(bucket), now_ms, per_s) == i64::from(per_s) * PARTS
            };
            tenant.buckets.retain(|limit, bucket| !full(limit, bucket));
            tenant.users.retain(|_, buckets| !buckets.iter().all(|(limit, bucket)| full(limit, bucket)));
        }
        tenants.retain(|_, tenant| !tenant.buckets.is_empty() || !tenant.users.is_empty());
        self.kept = tenants.values().map(|tenant| 1 + tenant.users.len()).sum();
        self.sweep_at = KEPT.max(2 * self.kept);
        self.tenants = tenants;
    }
}

impl Bucket {
    /// Parts in it now.
    fn filled(bucket: Option<&Bucket>, now_ms: u64, per_s: u32) -> i64 {
        let full = i64::from(per_s) * PARTS;
        let Some(bucket) = bucket else { return full };
        let owed = bucket.parts.max(-DEBT_S * full);
        let gained = now_ms.saturating_sub(bucket.at_ms).saturating_mul(u64::from(per_s));
        owed.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX)).min(full)
    }

    /// How long until there is room; `None`: there is. What costs much is paid for afterwards.
    fn wait_ms(parts: i64, per_s: u32, cost: u32) -> Option<u32> {
        let wanted = i64::from(cost.min((per_s / WANTED_PART).max(1))) * PARTS;
        if cost == 0 || parts >= wanted {
            return None;
        }
        let missing = (wanted - parts).unsigned_abs().div_ceil(u64::from(per_s.max(1)));
        Some(u32::try_from(missing).unwrap_or(u32::MAX).min(RETRY_MS_MAX))
    }

    fn take(buckets: &mut Buckets, now_ms: u64, limit: Limit, per_s: u32, cost: u32) {
        let before = buckets.get(&limit);
        let at_ms = now_ms.max(before.map_or(0, |bucket| bucket.at_ms));
        let parts = Bucket::filled(before, now_ms, per_s) - i64::from(cost) * PARTS;
        let parts = parts.max(-DEBT_S * i64::from(per_s) * PARTS);
        buckets.insert(limit, Bucket { parts, at_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId(1);

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn quotas(own: &[(Limit, u32)]) -> Quotas {
        Quotas::new(&own.iter().copied().collect())
    }

    fn over(limit: Limit, per_s: u32, retry_ms: u32) -> Result<(), Over> {
        Err(Over { limit, per_s, retry_ms })
    }

    #[test]
    fn a_second_has_so_many_and_says_when_to_come_again() {
        let mut quotas = quotas(&[(Limit::SequenceRequests, 10)]);
        let mut take = |now_ms, tenant| quotas.take(now_ms, TenantId(tenant), &user("alice"), Ask::Sequence);
        for _ in 0..10 {
            assert_eq!(take(5_000, 1), Ok(()));
        }
        let refused = |retry_ms| over(Limit::SequenceRequests, 10, retry_ms);
        assert_eq!(take(5_000, 1), refused(100));
        assert_eq!(take(5_000, 2), Ok(()), "another tenant's bucket is its own");
        assert_eq!(take(5_060, 1), refused(40));
        assert_eq!(take(5_100, 1), Ok(()));
        assert_eq!(take(5_100, 1), refused(100));
        for _ in 0..10 {
            assert_eq!(take(60_000, 1), Ok(()));
        }
        assert!(take(60_000, 1).is_err(), "a bucket never holds more than one second's worth");
    }

    #[test]
    fn of_many_requests_at_once_as_many_count_as_one_by_one() {
        let mut at_once = quotas(&[(Limit::SequenceRequests, 10)]);
        let mut one_by_one = at_once.clone();
        for (now_ms, requests) in [(0, 4), (0, 9), (50, 1), (100, 2), (350, 0), (450, 1), (90_000, 11), (90_001, 1)] {
            let mut taken = 0;
            let mut over = None;
            for _ in 0..requests {
                match one_by_one.take(now_ms, TENANT, &user("alice"), Ask::Sequence) {
                    Ok(()) => taken += 1,
                    Err(refused) => over = Some(refused),
                }
            }
            assert_eq!(at_once.take_counts(now_ms, TENANT, requests), (taken, over), "{requests} at {now_ms} ms");
        }
        assert_eq!(quotas(&[(Limit::SequenceRequests, u32::MAX)]).take_counts(0, TENANT, u32::MAX), (u32::MAX, None));
        let (taken, over) = quotas(&[(Limit::SequenceRequests, 0)]).take_counts(0, TENANT, 5);
        assert_eq!((taken, over.map(|over| over.retry_ms)), (0, Some(1_000)));
    }

    #[test]
    fn a_clock_that_stands_still_or_a_rate_of_nothing_gives_nothing() {
        let ask = |quotas: &mut Quotas, now_ms| quotas.take(now_ms, TENANT, &user("alice"), Ask::Sequence);
        let mut none = quotas(&[(Limit::SequenceRequests, 0)]);
        for now_ms in [0, 1_000, u64::MAX] {
            assert_eq!(ask(&mut none, now_ms), over(Limit::SequenceRequests, 0, 1_000));
        }
        let mut one = quotas(&[(Limit::SequenceRequests, 1)]);
        assert_eq!(ask(&mut one, 9_000), Ok(()));
        assert_eq!(ask(&mut one, 8_000), over(Limit::SequenceRequests, 1, 1_000));
        assert_eq!(ask(&mut one, 9_999), over(Limit::SequenceRequests, 1, 1));
        assert_eq!(ask(&mut one, 10_000), Ok(()));
    }

    #[test]
    fn a_user_has_limits_of_his_own_and_takes_nothing_from_others() {
        let mut quotas = quotas(&[(Limit::UserWrites, 2), (Limit::TenantWrites, 5)]);
        let write = |quotas: &mut Quotas, name| quotas.take(0, TENANT, &user(name), Ask::Write { bytes: 10 });
        assert_eq!((write(&mut quotas, "alice"), write(&mut quotas, "alice")), (Ok(()), Ok(())));
        for _ in 0..100 {
            assert_eq!(write(&mut quotas, "alice"), over(Limit::UserWrites, 2, 500));
        }
        // What was refused counts against nothing: three of the tenant's five are left.
        assert_eq!((write(&mut quotas, "bob"), write(&mut quotas, "bob")), (Ok(()), Ok(())));
        assert_eq!(write(&mut quotas, "carol"), Ok(()));
        assert_eq!(write(&mut quotas, "carol"), over(Limit::TenantWrites, 5, 200));
        assert_eq!(quotas.take(0, TENANT, &user("alice"), Ask::Read), Ok(()), "reads are counted apart");
        assert_eq!(quotas.take(200, TENANT, &user("carol"), Ask::Write { bytes: 0 }), Ok(()));
    }

    #[test]
    fn bytes_count_and_a_body_larger_than_a_seconds_worth_goes_through_and_is_paid_for() {
        let mut quotas = quotas(&[(Limit::TenantBytes, 1_000)]);
        let refused = |retry_ms| over(Limit::TenantBytes, 1_000, retry_ms);
        let mut write = |now_ms, bytes| quotas.take(now_ms, TENANT, &user("alice"), Ask::Write { bytes });
        assert_eq!(write(0, 400), Ok(()));
        // A tenth of a second's worth is enough to begin with.
        assert_eq!(write(0, 5_000), Ok(()));
        assert_eq!(write(0, 1), refused(1_000));
        assert_eq!(write(4_399, 1), refused(2));
        assert_eq!(write(4_401, 1), Ok(()));
        assert_eq!(write(4_500, 700), refused(1));
        assert_eq!(write(4_501, 700), Ok(()));
        // What has no bytes is not held up, and nobody owes more than ten seconds' worth.
        assert_eq!(write(4_501, 0), Ok(()));
        assert_eq!(write(10_000, 64 << 10), Ok(()));
        assert_eq!(write(19_999, 1), refused(2));
        assert_eq!(write(20_001, 1), Ok(()));
    }

    #[test]
    fn a_rate_that_was_lowered_does_not_leave_old_debts_behind() {
        let mut quotas = quotas(&[(Limit::TenantBytes, 1_000)]);
        let write = |quotas: &mut Quotas, now_ms, bytes| {
            quotas.take(now_ms, TENANT, &user("alice"), Ask::Write { bytes }).is_ok()
        };
        assert!(write(&mut quotas, 0, 64 << 10));
        let own = |rate| TenantRecord { id: TENANT, limits: [(Limit::TenantBytes, rate)].into() };
        quotas.set_tenants(&[own(10)]);
        assert!(!write(&mut quotas, 9_000, 1) && write(&mut quotas, 10_200, 1));
        quotas.set_tenants(&[own(0)]);
        assert!(!write(&mut quotas, 90_000, 1) && write(&mut quotas, 90_000, 0));
    }

    #[test]
    fn what_the_directory_says_of_a_tenant_holds_at_once_and_for_it_alone() {
        let mut quotas = quotas(&[(Limit::UserWrites, 1)]);
        let write = |quotas: &mut Quotas, tenant| {
            quotas.take(0, TenantId(tenant), &user("alice"), Ask::Write { bytes: 1 }).is_ok()
        };
        assert!(write(&mut quotas, 1) && !write(&mut quotas, 1));
        let own = |rate| TenantRecord { id: TenantId(2), limits: [(Limit::UserWrites, rate)].into() };
        assert!(quotas.set_tenants(&[own(3)]));
        assert!(!quotas.set_tenants(&[own(3)]));
        assert_eq!([1, 2].map(|tenant| quotas.rate(TenantId(tenant), Limit::UserWrites)), [1, 3]);
        assert_eq!((0..9).filter(|_| write(&mut quotas, 2)).count(), 3);
        // Lowered: what is in the bucket beyond it is gone. Raised: it fills at the new rate.
        quotas.set_tenants(&[own(0)]);
        assert!(!write(&mut quotas, 2));
        quotas.set_tenants(&[own(1_000)]);
        assert_eq!(quotas.take(1, TenantId(2), &user("alice"), Ask::Write { bytes: 1 }), Ok(()));
        quotas.set_tenants(&[]);
        assert_eq!(quotas.rate(TenantId(2), Limit::UserWrites), 1);
    }

    #[test]
    fn those_that_are_full_again_take_no_memory_and_others_are_not_forgotten() {
        let mut quotas = quotas(&[(Limit::UserWrites, 2)]);
        let write = |quotas: &mut Quotas, now_ms, n: u64| {
            let name = user(&format!("user-{n}"));
            quotas.take(now_ms, TenantId(n as u32 % 3_000), &name, Ask::Write { bytes: 1 })
        };
        for n in 0..100_000 {
            write(&mut quotas, n, n).unwrap();
        }
        let kept: usize = quotas.tenants.values().map(|tenant| 1 + tenant.users.len()).sum();
        assert_eq!(kept, quotas.kept);
        assert!(kept <= KEPT + 1, "{kept}");
        // All at one time: nobody is full again, and everybody has exactly one left.
        for n in 0..40_000 {
            write(&mut quotas, 1_000_000, n).unwrap();
        }
        for n in 0..40_000 {
            write(&mut quotas, 1_000_000, n).unwrap();
            assert!(write(&mut quotas, 1_000_000, n).is_err());
        }
    }
}
