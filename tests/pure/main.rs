//! The pure side: what a mesh is lowered to, how plans get there, and what a packet then meets. No kernel is
//! touched and no privileges are needed; only `nft_text` asks the real nft, where it may.

mod build;
mod marks;
mod meshes;
mod mutations;
mod plans;
mod prefixes;
mod tracer;
mod traffic;
