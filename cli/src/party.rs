//! An end of a connection as people name it: a pod, an address, or a name of the DNS outside.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Result, bail};
use policy::{DropReason, Peer, model::Direction};
use sources::EndName;

use crate::oracle::{End, Half, Oracle};

/// An end of a connection.
#[derive(Clone, Debug)]
pub enum Party {
    /// A pod of one of the clusters.
    Pod(Box<End>),
    /// An address that no pod has.
    Address(IpAddr),
    /// A name of the DNS outside, whatever its address.
    Name([Arc<str>; 1]),
}

impl Party {
    /// `CLUSTER/NAMESPACE/POD`, an address, which means the pod that has it, or a name of the DNS.
    ///
    /// # Errors
    /// When there is no such pod, or several have the address.
    pub fn find(oracle: &Oracle, name: &str) -> Result<Self> {
        let address = match EndName::of(name) {
            EndName::Address(address) => address,
            EndName::Domain(name) => return Ok(Self::Name([name])),
            EndName::Pod => return Ok(Self::Pod(Box::new(oracle.end(name)?))),
        };
        match oracle.at(address) {
            [] => Ok(Self::Address(address)),
            [pod] => Ok(Self::Pod(Box::new(oracle.end(pod)?))),
            pods => bail!(
                "{address} is the address of {}: name one",
                pods.join(" and of ")
            ),
        }
    }

    /// The pod, if it is one.
    pub fn pod(&self) -> Option<&End> {
        match self {
            Self::Pod(end) => Some(end),
            Self::Address(_) | Self::Name(_) => None,
        }
    }

    /// What is enforced at both ends of a connection of this one to `to`, by the files: egress here, ingress there.
    ///
    /// # Errors
    /// As [`Oracle::half`].
    pub fn to(&self, oracle: &Oracle, to: &Self, protocol: u8, port: u16) -> Result<[Half; 2]> {
        Ok([
            self.half(oracle, Direction::Egress, to, protocol, port)?,
            to.half(oracle, Direction::Ingress, self, protocol, port)?,
        ])
    }

    /// What is enforced beside it towards `peer`, by the files.
    ///
    /// # Errors
    /// As [`Oracle::half`].
    fn half(
        &self,
        oracle: &Oracle,
        direction: Direction,
        peer: &Self,
        protocol: u8,
        port: u16,
    ) -> Result<Half> {
        let subject = match self {
            Self::Pod(subject) => subject,
            Self::Address(address) => {
                return Ok(Half::Unenforced(format!(
                    "allowed because {address} is no pod's address, and no policy here speaks for it"
                )));
            }
            Self::Name([name]) => {
                return Ok(Half::Unenforced(format!(
                    "allowed because {name} is no pod, and no policy here speaks for it"
                )));
            }
        };
        let peer = match peer {
            Self::Pod(peer) => return oracle.half(direction, subject, peer, protocol, port),
            Self::Address(address) => {
                if let Some(cluster) = oracle.owner(*address) {
                    return Ok(Half::NoIdentity(format!(
                        "dropped ({}) because {address} is in the pod ranges of {cluster} and no pod's: what \
                         proves no identity there is dropped before policy is asked",
                        DropReason::NoIdentity
                    )));
                }
                Peer::Address(*address)
            }
            Self::Name(names) => Peer::Named {
                address: None,
                names,
            },
        };
        Ok(oracle.half_to_outside(direction, subject, peer, protocol, port))
    }
}
