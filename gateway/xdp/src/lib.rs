//! Packets between a NIC and user space: the steering program in the kernel, its loader, and AF_XDP
//! sockets with their packet memory.
//!
//! The only crate with unsafe code; its public interface is safe. It judges no packet: which ones are
//! taken from the kernel is a question of addresses and ports ([`SteerConfig`]), what happens to them
//! is decided elsewhere.

mod attach;
mod bpffs;
mod detach;
mod error;
mod features;
mod frames;
mod mapping;
mod nic;
mod preflight;
mod queues;
mod ring;
mod socket;
mod steer;
mod sys;
mod wait;

pub use attach::{AttachMode, Attachment, Closed, Steering};
pub use bpffs::unmount;
pub use error::XdpError;
pub use frames::{Frame, FramePool, HEADROOM};
pub use nic::{AttachedProgram, Nic};
pub use preflight::{Plan, Problem, preflight};
pub use queues::QueueSet;
pub use socket::{CopyMode, Port, RingSizes, Statistics, StatisticsHandle, XskQueue};
pub use steer::{SteerConfig, SteerCounters, Vxlan};
pub use wait::Waker;
