//! The contestants of the map table that are Rust, or speak through a socket: hashbrown, dashmap, papaya, LMDB, Redis.
//!
//! Maps of threads live in a forked child, with their threads: nothing of them is left when a run is over.

use crate::maps::{Data, Keys, Plan, Store, seat};
use crate::peers;
use std::cell::RefCell;
use std::hash::Hash;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Hasher = hashbrown::DefaultHashBuilder;

/// Reads so many before the measured phases where pages must be mapped first.
pub const WARM: usize = 100_000;

// ---- in one process

/// The three that live in a process, empty.
pub mod in_process {
    use super::Hasher;
    use std::hash::Hash;

    /// hashbrown.
    pub fn hashbrown<K: Hash + Eq, V>() -> hashbrown::HashMap<K, V> {
        hashbrown::HashMap::new()
    }
    /// dashmap.
    pub fn dashmap<K: Hash + Eq, V>() -> dashmap::DashMap<K, V, Hasher> {
        dashmap::DashMap::with_hasher(Hasher::default())
    }
    /// papaya.
    pub fn papaya<K: Hash + Eq, V>() -> papaya::HashMap<K, V, Hasher> {
        papaya::HashMap::with_hasher(Hasher::default())
    }
}

struct Hashbrown<K, V>(hashbrown::HashMap<K, V>);

impl<K: Data + Hash + Eq, V: Data + PartialEq> Store<K, V> for Hashbrown<K, V> {
    #[inline(always)]
    fn get(&mut self, key: &K, value: &V) -> bool {
        self.0.get(key) == Some(value)
    }
    #[inline]
    fn put(&mut self, key: &K, value: &V) {
        self.0.insert(*key, *value);
    }
}

/// The limit of one core: each process has a map of its own, with all entries.
pub fn hashbrown<K: Data + Hash + Eq, V: Data + PartialEq>(
    plan: &Plan,
    keys: &Keys<K>,
) -> Result<Vec<f64>, String> {
    let parties = plan.parties;
    peers::in_phases(parties, parties, plan.limits, |i, phases| {
        seat::<K, V, _>(phases, keys, i, (0, 1), Hashbrown(in_process::hashbrown()), |map| map, 0);
    })
}

impl<K: Data + Hash + Eq, V: Data + PartialEq> Store<K, V> for &dashmap::DashMap<K, V, Hasher> {
    #[inline(always)]
    fn get(&mut self, key: &K, value: &V) -> bool {
        dashmap::DashMap::get(self, key).is_some_and(|found| *found == *value)
    }
    #[inline]
    fn put(&mut self, key: &K, value: &V) {
        self.insert(*key, *value);
    }
}

/// dashmap, between threads.
pub fn dashmap<K: Data + Hash + Eq, V: Data + PartialEq>(
    plan: &Plan,
    keys: &Keys<K>,
) -> Result<Vec<f64>, String> {
    let parties = plan.parties;
    peers::in_phases(1, parties, plan.limits, |_, phases| {
        let map = in_process::dashmap();
        std::thread::scope(|scope| {
            for i in 0..parties {
                let map = &map;
                scope.spawn(move || seat::<K, V, _>(phases, keys, i, (i, parties), map, |map| map, 0));
            }
        });
    })
}

impl<K: Data + Hash + Eq, V: Data + PartialEq> Store<K, V> for &papaya::HashMap<K, V, Hasher> {
    #[inline(always)]
    fn get(&mut self, key: &K, value: &V) -> bool {
        self.pin().get(key) == Some(value)
    }
    #[inline]
    fn put(&mut self, key: &K, value: &V) {
        self.pin().insert(*key, *value);
    }
}

/// papaya, between threads.
pub fn papaya<K: Data + Hash + Eq, V: Data + PartialEq>(
    plan: &Plan,
    keys: &Keys<K>,
) -> Result<Vec<f64>, String> {
    let parties = plan.parties;
    peers::in_phases(1, parties, plan.limits, |_, phases| {
        let map = in_process::papaya();
        std::thread::scope(|scope| {
            for i in 0..parties {
                let map = &map;
                scope.spawn(move || seat::<K, V, _>(phases, keys, i, (i, parties), map, |map| map, 0));
            }
        });
    })
}

// ---- LMDB

/// A folder in shared memory, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        // Not our crate's name: its tests look whether they leave something behind under that.
        let path = Path::new("/dev/shm").join(format!("map-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("/dev/shm can be written to");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// LMDB on /dev/shm, without sync, one transaction for each operation. An environment must not cross a fork, so each child
/// opens its own.
pub struct Lmdb {
    full: Folder,
}

type Bytes = heed::Database<heed::types::Bytes, heed::types::Bytes>;

struct Environment {
    env: heed::Env,
    data: Bytes,
}

impl Environment {
    fn open(folder: &Path) -> Self {
        let env = peers::lmdb(folder, 4 << 30);
        let mut write = env.write_txn().expect("LMDB writes");
        let data = env.create_database(&mut write, None).expect("LMDB's database");
        write.commit().expect("LMDB commits");
        Self { env, data }
    }
}

impl<K: Data, V: Data> Store<K, V> for Environment {
    const GOES_ON: bool = false;

    fn get(&mut self, key: &K, value: &V) -> bool {
        let read = self.env.read_txn().expect("LMDB reads");
        self.data.get(&read, key.bytes()).expect("LMDB gets") == Some(value.bytes())
    }
    fn put(&mut self, key: &K, value: &V) {
        let mut write = self.env.write_txn().expect("LMDB writes");
        self.data.put(&mut write, key.bytes(), value.bytes()).expect("LMDB puts");
        write.commit().expect("LMDB commits");
    }
}

impl Lmdb {
    /// With all entries, put there in large transactions.
    pub fn new<K: Data, V: Data>(kind: &str, keys: &Keys<K>) -> Result<Self, String> {
        let full = Folder::new(&format!("lmdb-{kind}"));
        peers::in_a_child(|| {
            let at = Environment::open(&full.0);
            for (chunk, part) in keys.all.chunks(10_000).enumerate() {
                let mut write = at.env.write_txn().expect("LMDB writes");
                for (i, key) in part.iter().enumerate() {
                    let value = V::of((chunk * 10_000 + i) as u64);
                    at.data.put(&mut write, key.bytes(), value.bytes()).expect("LMDB puts");
                }
                write.commit().expect("LMDB commits");
            }
        })?;
        Ok(Self { full })
    }

    /// One run: inserts into a new one, the rest on the full one.
    pub fn run<K: Data, V: Data>(&self, plan: &Plan, keys: &Keys<K>) -> Result<Vec<f64>, String> {
        let (parties, empty) = (plan.parties, Folder::new("lmdb-empty"));
        peers::in_phases(parties, parties, plan.limits, |i, phases| {
            let full = |_| Environment::open(&self.full.0);
            seat::<K, V, _>(phases, keys, i, (i, parties), Environment::open(&empty.0), full, WARM / 2);
        })
    }
}

// ---- Redis

/// A redis-server of ours, behind a unix socket, which keeps nothing on disk.
pub struct RedisServer {
    process: Child,
    folder: Folder,
    full: RefCell<Option<usize>>,
}

impl RedisServer {
    /// Starts one.
    pub fn start(kind: &str) -> Result<Self, String> {
        let folder = Folder::new(&format!("redis-{kind}"));
        let socket = folder.0.join("socket");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(&folder.0);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
        let process = process.map_err(|_| "redis-server is not here")?;
        let server = Self { process, folder, full: RefCell::new(None) };
        let patience = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&socket).is_err() {
            if Instant::now() > patience {
                return Err("redis-server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    fn client(&self, database: &str, in_flight: usize) -> RedisClient {
        let stream = UnixStream::connect(self.folder.0.join("socket")).expect("redis answers");
        let replies = BufReader::with_capacity(1 << 16, stream.try_clone().expect("a descriptor"));
        let mut client = RedisClient {
            stream,
            replies,
            in_flight,
            out: Vec::new(),
            waiting: Vec::new(),
            right: true,
            line: Vec::new(),
        };
        client.ask(&[b"SELECT", database.as_bytes()], None);
        client
    }

    /// One run: inserts into an empty database, the rest on a full one.
    pub fn run<K: Data, V: Data>(
        &self,
        plan: &Plan,
        keys: &Keys<K>,
        in_flight: usize,
    ) -> Result<Vec<f64>, String> {
        let parties = plan.parties;
        let mut client = self.client("0", 64);
        if *self.full.borrow() != Some(keys.all.len()) {
            client.ask(&[b"FLUSHDB"], None);
            for (i, key) in keys.all.iter().enumerate() {
                client.put(key, &V::of(i as u64));
            }
            *self.full.borrow_mut() = Some(keys.all.len());
        }
        client.ask(&[b"SELECT", b"1"], None);
        client.ask(&[b"FLUSHDB"], None);
        client.drain();
        peers::in_phases(parties, parties, plan.limits, |i, phases| {
            let full = |_| self.client("0", in_flight);
            seat::<K, V, _>(phases, keys, i, (i, parties), self.client("1", in_flight), full, 1_000);
        })
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct RedisClient {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
    in_flight: usize,
    out: Vec<u8>,
    /// For each command under way: the value that it must give, if it is a GET.
    waiting: Vec<Option<Vec<u8>>>,
    right: bool,
    line: Vec<u8>,
}

impl RedisClient {
    fn ask(&mut self, words: &[&[u8]], expected: Option<Vec<u8>>) {
        let _ = write!(self.out, "*{}\r\n", words.len());
        for word in words {
            let _ = write!(self.out, "${}\r\n", word.len());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
        self.waiting.push(expected);
        if self.waiting.len() >= self.in_flight {
            self.drain();
        }
    }

    fn read_line(&mut self) {
        use std::io::BufRead;
        self.line.clear();
        self.replies.read_until(b'\n', &mut self.line).expect("redis answers");
        assert!(
            self.line.first().is_some_and(|&c| c != b'-'),
            "redis: {}",
            String::from_utf8_lossy(&self.line)
        );
    }

    fn drain(&mut self) {
        self.stream.write_all(&self.out).expect("redis listens");
        self.out.clear();
        for expected in std::mem::take(&mut self.waiting) {
            self.read_line();
            if self.line[0] != b'$' {
                continue;
            }
            let len = std::str::from_utf8(&self.line[1..]).ok().and_then(|n| n.trim().parse::<i64>().ok());
            let mut value = vec![0; (len.unwrap_or(-1) + 2).max(0) as usize];
            if len.is_some_and(|len| len >= 0) {
                self.replies.read_exact(&mut value).expect("redis answers");
                value.truncate(value.len() - 2);
            }
            self.right &= expected.is_some_and(|expected| expected == value);
        }
    }
}

impl<K: Data, V: Data> Store<K, V> for RedisClient {
    const GOES_ON: bool = false;

    fn get(&mut self, key: &K, value: &V) -> bool {
        self.ask(&[b"GET", key.bytes()], Some(value.bytes().to_vec()));
        self.right
    }
    fn put(&mut self, key: &K, value: &V) {
        self.ask(&[b"SET", key.bytes(), value.bytes()], None);
    }
    fn settle(&mut self) {
        self.drain();
        assert!(self.right, "redis gave a wrong value");
    }
}
