//! What a seed decides: how many nodes, what goes wrong, how much is written. All numbers come
//! from one small generator (splitmix64), equal on every machine.

use cellfs::base::id::NodeId;

/// Milliseconds of virtual time.
pub(super) type Ms = u64;

/// Numbers that follow from a seed.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// An index into `len` things.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("an index")
    }

    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True this often of a thousand.
    pub(super) fn permille(&mut self, often: u64) -> bool {
        self.below(1000) < often
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        Some(from[self.index(from.len())].clone())
    }
}

/// What happens in a run. Each seed turns on some of the faults, so that none always hides
/// behind another.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Machines at the start.
    pub(super) nodes: usize,
    /// Writing and faults go on for this long.
    pub(super) busy: Ms,
    /// Then all must agree after this long: a peer that is silent once is left alone for a minute.
    pub(super) settle: Ms,
    /// And nothing more is committed for this long, in which all still agree.
    pub(super) quiet: Ms,
    /// Mean pause between two acts, of the whole cell.
    pub(super) act_every: Ms,
    /// Mean one-way latency.
    pub(super) latency: Ms,
    /// Messages lost and doubled, of a thousand.
    pub(super) loss: u64,
    pub(super) doubled: u64,
    /// Announcements are lost as a whole, of a thousand: gossip alone must do.
    pub(super) deaf: u64,
    /// Mean pauses between faults; none if 0.
    pub(super) partition_every: Ms,
    pub(super) cut_every: Ms,
    pub(super) crash_every: Ms,
    /// Crashes that bring back an older disk, of a thousand.
    pub(super) amnesia: u64,
    /// Clocks are off by up to this much.
    pub(super) skew: Ms,
    /// Machines that copy another one's disk and key.
    pub(super) twins: usize,
    /// Members that lie.
    pub(super) liars: usize,
    /// The last of those ends with a commit in another node's name.
    pub(super) forges: bool,
    /// Nodes that go for good, each followed by one that joins.
    pub(super) leavers: usize,
    /// Git clients that ask for the view, mean pause; none if 0.
    pub(super) clone_every: Ms,
    /// Pauses between gossip rounds and between sweeps of all that is gossiped.
    pub(super) gossip_every: Ms,
    pub(super) sweep_every: Ms,
    /// Crash of one node of all: this share of a thousand a minute instead of `crash_every`.
    pub(super) churn: u64,
}

impl Plan {
    /// The plan of a seed.
    pub(super) fn of(seed: u64) -> Self {
        let mut r = Rng::new(seed);
        let nodes = match r.below(100) {
            0..70 => r.between(3, 6),
            70..92 => r.between(7, 14),
            _ => r.between(15, 30),
        };
        let n = usize::try_from(nodes).expect("small");
        let forges = Rng::new(seed ^ 0xF0_63E5).permille(400);
        let mut on = |often: u64, from: u64, to: u64| {
            let value = r.between(from, to);
            if r.permille(often) { value } else { 0 }
        };
        let busy = 12_000;
        let acts = 12 + 2 * nodes;
        Self {
            seed,
            nodes: n,
            busy,
            settle: 240_000,
            quiet: 20_000,
            act_every: busy / acts,
            latency: 1 + on(800, 5, 150),
            loss: on(600, 10, 300),
            doubled: on(500, 10, 300),
            deaf: on(250, 300, 1000),
            partition_every: on(500, 1_500, 6_000),
            cut_every: on(400, 500, 4_000),
            crash_every: on(600, 700, 6_000),
            amnesia: on(400, 200, 600),
            skew: on(400, 1_000, 3_600_000),
            twins: usize::try_from(on(200, 1, 2)).expect("small"),
            liars: usize::try_from(on(350, 1, 2)).expect("small").min(n - 2),
            forges,
            leavers: usize::try_from(on(250, 1, 2)).expect("small").min(n - 2),
            clone_every: on(300, 400, 3_000),
            gossip_every: 1_000,
            sweep_every: 2_000,
            churn: 0,
        }
    }

    /// Many nodes that come and go.
    pub(super) fn large(seed: u64, nodes: usize, churn: u64, busy: Ms) -> Self {
        Self {
            seed,
            nodes,
            busy,
            settle: 240_000,
            quiet: 20_000,
            act_every: 2_000,
            latency: 50,
            loss: 20,
            doubled: 10,
            deaf: 0,
            partition_every: 60_000,
            cut_every: 0,
            crash_every: 0,
            amnesia: 0,
            skew: 10_000,
            twins: 0,
            liars: 0,
            forges: false,
            leavers: 0,
            clone_every: 0,
            gossip_every: 2_000,
            sweep_every: 20_000,
            churn,
        }
    }
}

/// The id of a simulated node; the lowest byte of what its key would be is free to the eye.
pub(super) fn node_id(n: usize) -> NodeId {
    let mut id = *blake3::hash(&n.to_le_bytes()).as_bytes();
    id[31] = u8::try_from(n % 256).expect("a byte");
    NodeId(id)
}
