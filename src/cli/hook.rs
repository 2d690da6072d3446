//! `cellfs hook`: what git runs when somebody pushes.

use super::args::{Hook, HookName};
use crate::control::failure::{Answer, Failure};
use crate::doors::git::hook;

pub(super) fn run(args: &Hook) -> Answer<()> {
    let done = match args.name {
        HookName::PreReceive => hook::pre_receive(),
        HookName::ProcReceive => hook::proc_receive(),
    };
    done.map_err(Failure::failed)
}
