//! The pure side: what a mesh is lowered to, how plans get there, and what a packet then meets. No kernel is
//! touched and no privileges are needed; only `nft_text` asks the real nft, where it may.

mod build;
mod change;
mod check;
mod drain;
mod encryption;
mod explain;
mod golden;
mod health;
mod marks;
mod meshes;
mod mutations;
mod nft_text;
mod peers;
mod plans;
mod prefixes;
mod segments;
mod share;
mod swarm;
mod tracer;
mod traffic;

use proptest::prelude::ProptestConfig;

/// So many random cases, or what the environment says (`PROPTEST_CASES=10000` for a night).
fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
