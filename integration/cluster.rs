//! Several nodes in network namespaces of one machine: cuts, chains, slow and lossy links.
//!
//! Needs root, `ip` and `nft`; fails without them unless `CELLFS_NO_NETNS=1`.

mod converge;
mod drops;
mod film;
mod hour;
mod net;
mod people;
mod refusals;
mod switch;
mod wan;
