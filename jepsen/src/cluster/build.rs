//! Build: which build of the product the nodes run, and what the test build is told (`seriatim_proto::chaos`).

/// The product's own binary.
const PROGRAM: &str = "seriatim";
/// The test build's.
pub const CHAOS_PROGRAM: &str = "seriatim-chaos";
/// The variable that arms the test build.
pub const CHAOS_VARIABLE: &str = "SERIATIM_CHAOS";

/// The variable that names the file by which the test build's boot time is bent.
pub(crate) const BOOT_VARIABLE: &str = "SERIATIM_CHAOS_BOOT";

/// So many log entries stay after a purge: a store that is away for seconds is behind the log.
const KEEP_LOW: u64 = 100;
/// After so many bytes of log a store flushes and purges: about once a second.
const FLUSH_LOW: u64 = 128 << 10;

/// Which build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Build {
    /// the product
    #[default]
    Product,
    /// the test build, with the product's own bounds
    Chaos,
    /// the test build, with bounds so low that logs are purged and snapshots installed
    ChaosLow,
}

impl Build {
    /// By its name on the command line.
    pub fn parse(text: &str) -> Option<Build> {
        [Build::Product, Build::Chaos, Build::ChaosLow].into_iter().find(|build| build.name() == text)
    }

    /// On the command line.
    pub fn name(self) -> &'static str {
        match self {
            Build::Product => "product",
            Build::Chaos => "chaos",
            Build::ChaosLow => "chaos-low",
        }
    }

    /// Name of the binary.
    pub fn program(self) -> &'static str {
        match self {
            Build::Product => PROGRAM,
            Build::Chaos | Build::ChaosLow => CHAOS_PROGRAM,
        }
    }

    /// What its nodes' environment has besides the harness's own.
    pub fn env(self, seed: u64) -> Vec<(String, String)> {
        let told = match self {
            Build::Product => return Vec::new(),
            Build::Chaos => format!("seed={seed}"),
            Build::ChaosLow => format!("seed={seed};{}", low_limits()),
        };
        vec![(CHAOS_VARIABLE.to_owned(), told)]
    }
}

/// The part of a chaos plan that lowers the bounds.
pub fn low_limits() -> String {
    format!("limit.keep={KEEP_LOW};limit.flush={FLUSH_LOW}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_known_by_their_names() {
        for build in [Build::Product, Build::Chaos, Build::ChaosLow] {
            assert_eq!(Build::parse(build.name()), Some(build));
        }
        assert_eq!(Build::parse("debug"), None);
    }

    #[test]
    fn only_the_test_build_is_told_anything() {
        assert_eq!(Build::Product.env(7), []);
        let told = Build::ChaosLow.env(7).remove(0).1;
        assert!(told.starts_with("seed=7;limit.keep="), "{told}");
    }
}
