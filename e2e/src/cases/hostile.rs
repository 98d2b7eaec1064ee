//! Peers that mean harm or are broken: floods, bombs, smuggling, silence, garbage. Every case holds the same three
//! things: the process lives on, its memory stays within a bound, and others are served meanwhile.
//!
//! Whatever is sent here is made by hand, byte by byte, because no library would send it.

use crate::Case;

mod app;
mod backend;
mod few;
mod floods;
mod frames;
mod garbage;
mod http1;
mod http2;
mod listening;
mod memory;
mod peer;
pub(super) mod rig;
mod slow;
mod strangers;

pub(super) const CASES: &[Case] = &[
    Case { name: "hostile/http2-resets", run: http2::resets },
    Case { name: "hostile/http2-continuation", run: http2::continuation },
    Case { name: "hostile/http2-empty-data", run: http2::empty_data },
    Case { name: "hostile/http2-hpack-bomb", run: http2::hpack_bomb },
    Case { name: "hostile/http2-floods", run: floods::by_clients },
    Case { name: "hostile/http2-apps", run: floods::by_apps },
    Case { name: "hostile/http1-framing", run: http1::framing },
    Case { name: "hostile/http1-upgrade", run: http1::upgrade },
    Case { name: "hostile/http1-early-answers", run: http1::early_answers },
    Case { name: "hostile/half-open", run: slow::half_open },
    Case { name: "hostile/idle", run: slow::idle },
    Case { name: "hostile/descriptors", run: slow::descriptors },
    Case { name: "hostile/few-descriptors", run: few::few },
    Case { name: "hostile/memory", run: memory::memory },
    Case { name: "hostile/split-client-hello", run: garbage::split_client_hello },
    Case { name: "hostile/garbage-bytes", run: garbage::bytes },
    Case { name: "hostile/garbage-headers", run: garbage::headers },
    Case { name: "hostile/many-names", run: garbage::many_names },
    Case { name: "hostile/controller", run: garbage::controller },
    Case { name: "hostile/controller-descriptors", run: strangers::descriptors },
];
