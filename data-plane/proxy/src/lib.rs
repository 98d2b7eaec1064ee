//! The proxy: everything of it that touches sockets. Knows configuration only through `outrigger_core::Store`,
//! never xDS.
//!
//! A request's way: [`listeners`] → [`outbound`] or [`inbound`] → [`http`] or [`tcp`] → [`pool`] → [`pump`].

pub mod admin;
pub mod fallback;
pub mod guard;
pub mod handover;
pub mod listeners;
pub mod pump;
pub mod redirect;
pub mod sys;
pub mod telemetry;
pub mod tls;
