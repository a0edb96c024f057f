//! Where replies go: what the controller mirrors of the host's addresses, neighbours and routes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::address::Address;
use crate::backend::NextHop;

/// [`Host::flags`]: the address is this host's own.
pub const LOCAL: u32 = 1;
/// [`Host::flags`]: the address has a next hop of its own.
pub const HOP: u32 = 2;

/// What is known of one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Host {
    /// The neighbour, or the gateway to it; zero without [`HOP`].
    pub hop: NextHop,
    /// [`LOCAL`], [`HOP`].
    pub flags: u32,
}

impl Host {
    /// One of the host's own addresses.
    pub fn own() -> Self {
        Self { flags: LOCAL, ..Self::default() }
    }

    /// Whether the address is this host's own.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & LOCAL != 0
    }

    /// Whether there is a next hop to this very address.
    #[inline(always)]
    pub const fn has_hop(&self) -> bool {
        self.flags & HOP != 0
    }
}

/// The route to a network of more than one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Route {
    /// Host bits are zero.
    pub network: Address,
    /// Ones where the network is compared.
    pub mask: Address,
    /// The gateway; interface 0: none is known.
    pub hop: NextHop,
}

impl Route {
    /// Whether an address of the same family lies in the network.
    #[inline(always)]
    pub const fn covers(&self, address: &Address) -> bool {
        let (a, n, m) = (&address.words, &self.network.words, &self.mask.words);
        if address.is_v4() {
            (a[3] ^ n[3]) & m[3] == 0
        } else {
            (a[0] ^ n[0]) & m[0] | (a[1] ^ n[1]) & m[1] | (a[2] ^ n[2]) & m[2] | (a[3] ^ n[3]) & m[3] == 0
        }
    }
}

/// Routes of a family that a program compares one by one; most hosts have fewer.
pub const LIST: usize = 16;

/// [`Routes::count`]: there are more than [`LIST`]. Ask the trie.
pub const TOO_MANY: u32 = u32::MAX;

/// All routes of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Routes {
    /// How many there are, or [`TOO_MANY`].
    pub count: u32,
    /// Longest prefixes first.
    pub list: [Route; LIST],
}

impl Routes {
    /// The key of a family's list.
    #[inline(always)]
    pub const fn key(is_v4: bool) -> Address {
        if is_v4 { Address::from_v4_raw(0) } else { Address::from_v6_raw([0; 4]) }
    }
}
