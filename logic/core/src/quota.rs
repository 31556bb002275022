//! Quota: how often each tenant may ask, as a token bucket (Turner, 1986) of one second's worth.

use std::collections::BTreeMap;

use seriatim_proto::ids::TenantId;

/// Tenants kept before the ones that are full again are forgotten.
const TENANTS_KEPT: usize = 1_024;
/// Parts of one request that a bucket counts in: a bucket gains `per_s` parts each millisecond.
const PARTS: u64 = 1_000;

/// The buckets of all tenants.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Quota {
    per_s: u32,
    buckets: BTreeMap<TenantId, Bucket>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Bucket {
    parts: u64,
    at_ms: u64,
}

impl Quota {
    /// So many requests a second for each tenant.
    pub fn new(per_s: u32) -> Self {
        Self { per_s, buckets: BTreeMap::new() }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// Milliseconds after which there is room for one; nothing is counted.
    pub fn take(&mut self, now_ms: u64, tenant: TenantId) -> Result<(), u32> {
        let (per_s, full) = (u64::from(self.per_s), u64::from(self.per_s) * PARTS);
        if self.buckets.len() >= TENANTS_KEPT && !self.buckets.contains_key(&tenant) {
            self.buckets.retain(|_, bucket| bucket.filled(now_ms, per_s) < full);
        }
        let bucket = self.buckets.entry(tenant).or_insert(Bucket { parts: full, at_ms: now_ms });
        *bucket = Bucket { parts: bucket.filled(now_ms, per_s), at_ms: now_ms.max(bucket.at_ms) };
        if bucket.parts < PARTS {
            let missing = (PARTS - bucket.parts).div_ceil(per_s.max(1));
            return Err(u32::try_from(missing).unwrap_or(u32::MAX));
        }
        bucket.parts -= PARTS;
        Ok(())
    }
}

impl Bucket {
    fn filled(self, now_ms: u64, per_s: u64) -> u64 {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(per_s);
        self.parts.saturating_add(gained).min(per_s * PARTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_and_says_when_to_come_again() {
        let mut quota = Quota::new(10);
        for _ in 0..10 {
            assert_eq!(quota.take(5_000, TenantId(1)), Ok(()));
        }
        assert_eq!(quota.take(5_000, TenantId(1)), Err(100));
        assert_eq!(quota.take(5_000, TenantId(2)), Ok(()), "another tenant's bucket is its own");
        assert_eq!(quota.take(5_060, TenantId(1)), Err(40));
        assert_eq!(quota.take(5_100, TenantId(1)), Ok(()));
        assert_eq!(quota.take(5_100, TenantId(1)), Err(100));
        for _ in 0..10 {
            assert_eq!(quota.take(60_000, TenantId(1)), Ok(()));
        }
        assert!(quota.take(60_000, TenantId(1)).is_err(), "a bucket never holds more than one second's worth");
    }

    #[test]
    fn a_clock_that_stands_still_or_a_quota_of_nothing_gives_nothing() {
        let mut quota = Quota::new(0);
        assert_eq!(quota.take(0, TenantId(1)), Err(1_000));
        let mut quota = Quota::new(1);
        assert_eq!(quota.take(9_000, TenantId(1)), Ok(()));
        assert_eq!(quota.take(8_000, TenantId(1)), Err(1_000));
        assert_eq!(quota.take(9_999, TenantId(1)), Err(1));
    }

    #[test]
    fn tenants_that_are_full_again_take_no_memory() {
        let mut quota = Quota::new(5);
        for tenant in 0..10_000 {
            quota.take(u64::from(tenant) * 1_000, TenantId(tenant)).unwrap();
        }
        assert!(quota.buckets.len() <= TENANTS_KEPT);
    }
}
