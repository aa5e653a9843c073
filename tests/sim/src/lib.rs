//! A world of clusters in one process and in virtual time: the real pure crates, real packets, and
//! a network that delays, loses, duplicates, reorders and is attacked.
//!
//! Every run follows from one seed. After each step the world is held against [`naive`], which is
//! computed from the raw objects and shares no code with the crates under test.

pub mod agent;
pub mod attacker;
pub mod dice;
pub mod gateway;
pub mod history;
pub mod host;
pub mod hub;
pub mod lines;
pub mod naive;
pub mod network;
pub mod objects;
pub mod onpath;
pub mod plan;
pub mod seeds;
pub mod shrink;
pub mod sight;
pub mod sockets;
pub mod trial;
pub mod wires;
pub mod world;
