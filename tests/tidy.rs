//! The house rules, checked on the source tree as text.
//!
//! | rule | looks at |
//! |---|---|
//! | a room names only rooms below it | `crate::` and `super::` paths in `src` |
//! | atomics go through `src/atomic.rs` | type names and paths in `src` |
//! | `unsafe` stays in the files named here | the keyword |
//! | nothing is made at first use behind a lock that a fork could catch | type names in `src` |
//! | each file has a header | the first line |
//! | each lint that is switched off says why | attributes |
//! | nothing is left for later | comments and macros |
//! | no sleep where something can be waited for | `src`, `tests`, `examples` |
//!
//! A rule is a function from one file to what is wrong in it. Each is first given a file with a planted violation and
//! one without, so that no rule passes because it looks at nothing.
//!
//! This reads tokens, not types: what a macro builds can slip by, what stands in a string does not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The rooms of `src`, and their ranks. A room names rooms of a smaller rank, and itself.
const ROOMS: &[(&str, u32)] = &[
    ("atomic", 1),
    ("error", 1),
    ("mutation", 2),
    ("os", 2),
    ("segment", 3),
    ("sync", 4),
    ("codec", 4),
    ("number", 5),
    ("value", 6),
    ("array", 6),
    ("shared_atomic", 6),
    ("map", 6),
    ("manager", 7),
    ("pool", 7),
    ("docs", 8),
];

/// The front door names all rooms, and no room names what stands only there.
const FRONT: u32 = 9;

/// References upwards that are allowed: file, room, reason.
const UPWARD: &[(&str, &str, &str)] =
    &[("src/atomic.rs", "os", "in a model each word carries the queue of those who sleep on it")];

/// All files of `src` with `unsafe` in them.
const UNSAFE: &[(&str, &str)] = &[
    ("src/atomic.rs", "kill points: a function pointer through an atomic"),
    ("src/array/hold.rs", "from a claim that is held to the slice of its elements"),
    ("src/os/fork.rs", "pthread_atfork"),
    ("src/os/futex.rs", "the futex system call"),
    ("src/os/image.rs", "program headers"),
    ("src/os/inherit.rs", "work between fork and exec"),
    ("src/os/liveness.rs", "file locks that rustix lacks"),
    ("src/os/memory.rs", "mmap"),
    ("src/os/process.rs", "posix_spawn"),
    ("src/os/raw_mutex.rs", "crate raw_sync works on pointers"),
    ("src/os/shm.rs", "a number that the kernel gave, a descriptor that may be closed"),
    ("src/pool/trampoline.rs", "code from an offset"),
    ("src/segment/bytes.rs", "from an offset to a word"),
    ("src/segment/lanes.rs", "a function for which the compiler is told what the processor has"),
    ("src/segment/object.rs", "words of the mapping, kept as pointers"),
    ("src/value.rs", "where a guard's copy lies"),
];

/// Files of `src` with something that is made at first use behind std's lock, and why no forked child finds it held.
const MADE_ONCE: &[(&str, &str)] = &[
    ("src/os/futex.rs", "the model only"),
    ("src/pool/worker.rs", "made by the only thread, before any task; `get` does not wait"),
];

/// Files that sleep, and why they cannot wait for something.
const SLEEPS: &[(&str, &str)] = &[
    ("tests/storm.rs", "the rhythm of the kills"),
    ("examples/array_mean.rs", "the work of its tasks, which the timings are about"),
];

// --- text to tokens ---

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Identifiers, keywords and numbers.
    Word,
    Punctuation,
    Comment,
    /// Strings and characters, without their text.
    Literal,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    let starts = |at: usize, text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        let (begin, c) = (at, chars[at]);
        let kind = if c.is_whitespace() {
            line += usize::from(c == '\n');
            at += 1;
            continue;
        } else if starts(at, "//") {
            at += chars[at..].iter().take_while(|&&c| c != '\n').count();
            Kind::Comment
        } else if starts(at, "/*") {
            let mut depth = 0;
            while at < chars.len() {
                let step = match () {
                    () if starts(at, "/*") => {
                        depth += 1;
                        2
                    }
                    () if starts(at, "*/") => {
                        depth -= 1;
                        2
                    }
                    () => 1,
                };
                at += step;
                if depth == 0 {
                    break;
                }
            }
            Kind::Comment
        } else if let Some(end) = literal(&chars[at..]) {
            at += end;
            Kind::Literal
        } else if c.is_alphanumeric() || c == '_' {
            at += chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
            Kind::Word
        } else {
            at += if starts(at, "::") { 2 } else { 1 };
            Kind::Punctuation
        };
        let text: String = chars[begin..at.min(chars.len())].iter().collect();
        let lines = text.matches('\n').count();
        let text = if kind == Kind::Literal { String::new() } else { text };
        found.push(Token { kind, text, line });
        line += lines;
    }
    found
}

/// The length of the string, character or lifetime at the start.
fn literal(chars: &[char]) -> Option<usize> {
    let prefix = chars.iter().take_while(|c| "bcr".contains(**c)).count();
    let hashes = chars[prefix..].iter().take_while(|c| **c == '#').count();
    let raw = prefix <= 2 && chars[..prefix].contains(&'r');
    match chars.get(prefix + hashes) {
        Some('"') if raw => {
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let start = prefix + hashes + 1;
            let body = chars[start..].windows(end.len()).position(|w| w == end)?;
            Some(start + body + end.len())
        }
        Some('"') if prefix <= 1 && hashes == 0 => Some(quoted(chars, prefix, '"')),
        Some('\'') if prefix <= 1 && hashes == 0 => match (chars.get(prefix + 1), chars.get(prefix + 2)) {
            (Some('\\'), _) => Some(quoted(chars, prefix, '\'')),
            (Some(_), Some('\'')) => Some(prefix + 3),
            _ => Some(prefix + 1), // a lifetime: its name is a word
        },
        _ => None,
    }
}

fn quoted(chars: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

// --- the tree ---

#[derive(Debug)]
struct File {
    /// From the root of the package, with `/`.
    path: String,
    text: String,
    tokens: Vec<Token>,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into(), tokens: tokens(text) }
    }

    fn is_under(&self, folder: &str) -> bool {
        self.path.starts_with(folder) && self.path[folder.len()..].starts_with('/')
    }

    fn code(&self) -> Vec<&Token> {
        self.tokens.iter().filter(|token| token.kind != Kind::Comment).collect()
    }

    fn at(&self, token: &Token, what: impl std::fmt::Display) -> String {
        format!("{}:{}: {what}", self.path, token.line)
    }

    /// `None`: the front door, or not in `src`.
    fn room(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        let room = path.split('/').next()?.trim_end_matches(".rs");
        (room != "lib").then_some(room)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn tree() -> Vec<File> {
    fn walk(folder: &Path, files: &mut Vec<File>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.expect("an entry of a folder").path()) {
            if path.is_dir() {
                if path.ends_with("target") {
                    continue; // what was built there is not ours
                }
                walk(&path, files);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).expect("source text is UTF-8");
                let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                files.push(File::new(&path, &text));
            }
        }
    }
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples", "benches", "fuzz"] {
        walk(&root().join(folder), &mut files);
    }
    for needed in ["src/lib.rs", "src/atomic.rs", "src/sync/word.rs", "src/pool/slot.rs", "tests/tidy.rs"] {
        assert!(files.iter().any(|file| file.path == needed), "the tree that was read lacks {needed}");
    }
    files
}

type Rule = fn(&File) -> Vec<String>;

/// First that the rule bites, then that the tree keeps it.
#[track_caller]
fn check(rule: Rule, planted: &[(&str, &str)], fine: &[(&str, &str)]) {
    for (path, text) in planted {
        assert!(!rule(&File::new(path, text)).is_empty(), "the rule misses what is wrong in {path}: {text}");
    }
    for (path, text) in fine {
        let found = rule(&File::new(path, text));
        assert!(found.is_empty(), "the rule finds in good text: {found:?}");
    }
    let found: Vec<String> = tree().iter().flat_map(rule).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

// --- rooms ---

fn rank(room: &str) -> Option<u32> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// All paths of the use tree that begins at `at`, as lists of words, and where it ends.
fn use_tree(code: &[&Token], mut at: usize) -> (Vec<Vec<String>>, usize) {
    let mut path = Vec::new();
    while let Some(token) = code.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                let mut all = Vec::new();
                at += 1;
                while code.get(at).is_some_and(|token| token.text != "}") {
                    let (tails, end) = use_tree(code, at);
                    all.extend(tails.into_iter().map(|tail| [path.clone(), tail].concat()));
                    at = end.max(at + 1);
                    at += usize::from(code.get(at).is_some_and(|token| token.text == ","));
                }
                return (all, at + 1);
            }
            "as" => at += 2,
            "*" => {
                path.push("*".into());
                return (vec![path], at + 1);
            }
            _ if token.kind == Kind::Word => {
                let next = code.get(at + 1).map(|token| token.text.as_str());
                path.push(token.text.clone());
                at += 1;
                if !matches!(next, Some("::" | "as")) {
                    return (vec![path], at);
                }
            }
            _ => break,
        }
    }
    (vec![path], at)
}

/// In which room the names of the crate's root live.
fn root_names() -> &'static BTreeMap<String, String> {
    static NAMES: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    NAMES.get_or_init(read_root_names)
}

fn read_root_names() -> BTreeMap<String, String> {
    let lib = File::new("src/lib.rs", &fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs"));
    let code = lib.code();
    let uses = (1..code.len()).filter(|&i| code[i].text == "use" && code[i - 1].text == "pub");
    let paths = uses.flat_map(|i| use_tree(&code, i + 1).0);
    paths
        .filter_map(|mut path| {
            path.retain(|part| part != "self" && part != "crate");
            Some((path.last()?.clone(), path.first()?.clone()))
        })
        .collect()
}

/// The rooms that a file names: those behind `crate::`, and behind enough `super::`.
fn rooms_named(file: &File) -> Vec<(Token, String)> {
    let code = file.code();
    let folders = file.path.split('/').count() - 1; // `src/a.rs`, `src/a/mod.rs`, `src/a/b.rs`
    let depth =
        folders - usize::from(file.path.ends_with("/mod.rs")) - usize::from(file.path == "src/lib.rs");
    let mut blocks: Vec<bool> = Vec::new(); // open braces: is it a module's?
    let mut named = Vec::new();
    for (i, token) in code.iter().enumerate() {
        match token.text.as_str() {
            "{" => blocks.push(i >= 2 && code[i - 2].text == "mod"),
            "}" => drop(blocks.pop()),
            "crate" | "super" if i == 0 || code[i - 1].text != "::" => {
                let mut next = i + 1;
                let mut up = usize::from(token.text == "super");
                while token.text == "super" && code.get(next + 1).is_some_and(|token| token.text == "super") {
                    (up, next) = (up + 1, next + 2);
                }
                if code.get(next).is_none_or(|token| token.text != "::") {
                    continue; // `pub(crate)`, `pub(super)`
                }
                let modules = depth + blocks.iter().filter(|is_module| **is_module).count();
                if token.text == "crate" || up >= modules {
                    let heads =
                        use_tree(&code, next).0.into_iter().filter_map(|path| path.into_iter().next());
                    named.extend(heads.map(|head| ((*token).clone(), head)));
                }
            }
            _ => {}
        }
    }
    named
}

fn upward_references(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some(own) = rank(room) else { return vec![format!("{}: a room without a rank", file.path)] };
    let names = root_names();
    // A room's tests may come in by the front door, as users do: its names, its functions, its public modules.
    let is_test = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    let front =
        |head: &str| names.contains_key(head) || rank(head).is_none() && head != "*" || head == "sync";
    let is_wrong = |head: &str| {
        let named = names.get(head).map_or(head, String::as_str);
        let allowed = UPWARD.iter().any(|(path, to, _)| *path == file.path && *to == named);
        named != room && !allowed && !(is_test && front(head)) && rank(named).unwrap_or(FRONT) >= own
    };
    let wrong = rooms_named(file).into_iter().filter(|(_, head)| is_wrong(head));
    wrong.map(|(token, head)| file.at(&token, format_args!("{room} names {head}"))).collect()
}

#[test]
fn rooms_name_only_rooms_below_them() {
    check(
        upward_references,
        &[
            ("src/os/new.rs", "use crate::segment::Segment;"),
            ("src/os/new.rs", "fn f() { let s = crate::segment::Segment::new(); }"),
            ("src/sync/new.rs", "use crate::{atomic::Word32, pool::{Pool, Map}};"),
            ("src/sync/new.rs", "use crate::Pool;"),
            ("src/sync/new.rs", "use crate::verify;"),
            ("src/sync/new.rs", "use crate::*;"),
            ("src/sync/new.rs", "use super::super::pool::Pool;"),
            ("src/sync/mod.rs", "use super::value::SharedValue;"),
            ("src/value.rs", "use super::shared_atomic::SharedAtomic;"),
            ("src/value.rs", "mod tests { use super::super::pool::Pool; }"),
            ("src/sync/tests/new.rs", "use crate::pool::slot::Ring;"),
            ("src/utils.rs", "//! Things."),
        ],
        &[
            ("src/pool/new.rs", "use crate::{atomic::Word32, value::SharedValue, Error};"),
            ("src/pool/new.rs", "use super::{slot::Ring, wire};\npub(crate) struct S(pub(super) u8);"),
            ("src/value.rs", "mod tests { use super::pool; } // crate::pool"),
            ("src/sync/new.rs", "/// See [`crate::Pool`].\nconst S: &str = \"crate::pool\";"),
            ("src/sync/tests/new.rs", "use crate::Pool; fn f() { crate::verify(); }"),
            ("src/segment/tests.rs", "use crate::{SharedValue, sync::Unlocked};"),
            ("tests/new.rs", "use crate::pool::Pool;"),
        ],
    );
    let files = tree();
    for (path, room, _) in UPWARD {
        let file = files.iter().find(|file| file.path == *path).expect("a file that exists");
        assert!(
            rooms_named(file).iter().any(|(_, head)| head == room),
            "{path} does not name {room} any more"
        );
    }
    let named: BTreeSet<_> = files.iter().filter_map(File::room).collect();
    for (room, _) in ROOMS {
        assert!(named.contains(room), "there is no room {room}");
    }
    assert!(root_names().contains_key("Pool"), "the names of lib.rs were not read");
}

// --- atomics ---

fn raw_atomics(file: &File) -> Vec<String> {
    if file.path == "src/atomic.rs" || !file.is_under("src") {
        return Vec::new(); // tests and peers cannot reach the door; clippy asks them for a reason
    }
    let code = file.code();
    let is_type = |text: &str| {
        let kind = text.strip_prefix("Atomic").unwrap_or_default();
        matches!(
            kind,
            "Bool" | "Ptr" | "U8" | "U16" | "U32" | "U64" | "Usize" | "I8" | "I16" | "I32" | "I64" | "Isize"
        )
    };
    let is_path = |i: usize| {
        ["core", "std", "loom"].contains(&code[i].text.as_str())
            && use_tree(&code, i)
                .0
                .iter()
                .any(|path| path.len() > 2 && path[1] == "sync" && path[2] == "atomic")
    };
    (0..code.len())
        .filter(|&i| is_type(&code[i].text) || is_path(i))
        .map(|i| file.at(code[i], "an atomic that does not come through src/atomic.rs"))
        .collect()
}

#[test]
fn atomics_come_through_one_door() {
    check(
        raw_atomics,
        &[
            ("src/sync/new.rs", "use core::sync::atomic::Ordering;"),
            ("src/sync/new.rs", "use std::{fmt, sync::{Arc, atomic::{self, fence}}};"),
            ("src/pool/tests/new.rs", "static N: AtomicU32 = AtomicU32::new(0);"),
            ("src/os/new.rs", "fn f() { std::sync::atomic::fence(SeqCst); }"),
        ],
        &[
            ("src/sync/new.rs", "use crate::atomic::{Word32, fence};\nuse std::sync::{Arc, Mutex};"),
            ("src/sync/new.rs", "// std::sync::atomic::AtomicU32\nuse std::{sync::Arc, time::Duration};"),
            ("src/atomic.rs", "use core::sync::atomic as imp;"),
        ],
    );
}

// --- unsafe ---

fn attributes(file: &File) -> Vec<Vec<&Token>> {
    let code = file.code();
    let opens = (0..code.len()).filter_map(|i| {
        let bracket = i + 1 + usize::from(code.get(i + 1)?.text == "!");
        (code[i].text == "#" && code.get(bracket)?.text == "[").then_some(bracket)
    });
    opens.map(|open| group(&code, open)).collect()
}

/// What is between the bracket at `open` and the one that closes it.
fn group<'a>(code: &[&'a Token], open: usize) -> Vec<&'a Token> {
    let mut depth = 0;
    let inside = code[open..].iter().take_while(|token| {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        depth > 0
    });
    inside.skip(1).copied().collect()
}

/// Lints that are switched off: what is between the parentheses.
fn allowed(file: &File) -> Vec<Vec<&Token>> {
    let all = attributes(file);
    let mut found = Vec::new();
    for attribute in &all {
        for i in 0..attribute.len() {
            let is_open = attribute.get(i + 1).is_some_and(|token| token.text == "(");
            if matches!(attribute[i].text.as_str(), "allow" | "expect") && is_open {
                found.push(group(attribute, i + 1));
            }
        }
    }
    found
}

fn has_unsafe(file: &File) -> Option<&Token> {
    file.tokens.iter().find(|token| token.kind == Kind::Word && token.text == "unsafe")
}

fn stray_unsafe(file: &File) -> Vec<String> {
    let Some(token) = has_unsafe(file) else { return Vec::new() };
    let is_word = |token: &&Token, word: &str| token.text == word;
    let permit = allowed(file).into_iter().any(|inside| {
        inside.iter().any(|t| is_word(t, "unsafe_code")) && inside.iter().any(|t| is_word(t, "reason"))
    });
    let mut wrong = Vec::new();
    if file.is_under("src") && !UNSAFE.iter().any(|(path, _)| *path == file.path) {
        wrong.push(file.at(token, "unsafe in a file that is not in the list"));
    }
    if !permit {
        wrong.push(file.at(token, "unsafe without `allow(unsafe_code, reason = ..)`"));
    }
    wrong
}

#[test]
fn unsafe_stays_in_the_files_named_here() {
    check(
        stray_unsafe,
        &[
            ("src/sync/new.rs", "#![allow(unsafe_code, reason = \"a\")]\nfn f() { unsafe { g() } }"),
            ("src/os/memory.rs", "fn f() { unsafe { g() } }"),
            ("src/os/memory.rs", "#![allow(unsafe_code)]\nfn f() { unsafe { g() } }"),
            ("tests/new.rs", "fn f() { unsafe { g() } }"),
        ],
        &[
            ("src/os/memory.rs", "#![allow(unsafe_code, reason = \"a\")]\nfn f() { unsafe { g() } }"),
            ("src/sync/new.rs", "#![forbid(unsafe_code)]\n// unsafe\nconst S: &str = \"unsafe\";"),
        ],
    );
    let files = tree();
    for (path, _) in UNSAFE {
        let file = files.iter().find(|file| file.path == *path);
        assert!(file.and_then(has_unsafe).is_some(), "{path} is in the list and has no unsafe");
    }
    let sync = files.iter().find(|file| file.path == "src/sync/mod.rs").expect("the room of protocols");
    assert!(sync.text.contains("#![forbid(unsafe_code)]"), "src/sync forbids unsafe");
}

// --- forks ---

fn made_once(file: &File) -> Vec<String> {
    if !file.is_under("src") || MADE_ONCE.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    let locks = ["OnceLock", "LazyLock", "LazyCell", "Once", "lazy_static"];
    let found = file.code().into_iter().filter(|token| token.kind == Kind::Word);
    found
        .filter(|token| locks.contains(&token.text.as_str()))
        .map(|token| file.at(token, "a child that is forked while another thread makes it waits for ever"))
        .collect()
}

#[test]
fn nothing_that_a_fork_could_catch_half_way() {
    check(
        made_once,
        &[
            ("src/os/new.rs", "static X: std::sync::OnceLock<u8> = std::sync::OnceLock::new();"),
            ("src/value.rs", "use std::sync::LazyLock;"),
        ],
        &[
            ("src/os/futex.rs", "use std::sync::OnceLock;"),
            ("src/os/new.rs", "// no OnceLock\nstatic X: Private64 = Private64::new(0);"),
            ("tests/new.rs", "use std::sync::OnceLock;"),
        ],
    );
    let files = tree();
    for (path, _) in MADE_ONCE {
        let file = files.iter().find(|file| file.path == *path).expect("a file in the list");
        assert!(file.text.contains("OnceLock"), "{path} is in the list and has none");
    }
}

// --- headers, lints, leftovers, sleeps ---

fn no_header(file: &File) -> Vec<String> {
    let has_one = file.text.lines().next().is_some_and(|line| line.len() > 4 && line.starts_with("//! "));
    if has_one { Vec::new() } else { vec![format!("{}:1: no `//!` header", file.path)] }
}

#[test]
fn each_file_has_a_header() {
    check(
        no_header,
        &[
            ("src/new.rs", ""),
            ("src/new.rs", "//!\n"),
            ("tests/new.rs", "// A test.\n"),
            ("examples/new.rs", "use allmend::Pool;\n//! Late."),
        ],
        &[("src/new.rs", "//! What it is.\n")],
    );
}

fn unreasoned(file: &File) -> Vec<String> {
    let without =
        allowed(file).into_iter().filter(|inside| !inside.iter().any(|token| token.text == "reason"));
    without
        .filter_map(|inside| Some(file.at(inside.first()?, "a lint is switched off without a reason")))
        .collect()
}

#[test]
fn lints_are_switched_off_with_a_reason() {
    check(
        unreasoned,
        &[
            ("src/new.rs", "#[allow(dead_code)] fn f() {}"),
            ("src/new.rs", "#![allow(dead_code, unused)]"),
            ("src/new.rs", "#[expect(dead_code)] fn f() {}"),
            ("src/new.rs", "#[cfg_attr(loom, allow(dead_code))] fn f() {}"),
            ("src/new.rs", "#[allow(dead_code, reason = \"a\")]\n#[allow(unused)] fn f() {}"),
        ],
        &[
            ("src/new.rs", "#[allow(dead_code, reason = \"a\")] fn f() { x.expect(\"y\"); }"),
            ("src/new.rs", "#[cfg_attr(loom, allow(dead_code, reason = \"a\"))] fn f() {}"),
        ],
    );
}

fn leftovers(file: &File) -> Vec<String> {
    let later = ["TODO", "FIXME", "XXX", "HACK"];
    let words =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| later.contains(&word));
    let code = file.code();
    let comments = file.tokens.iter().filter(|token| token.kind == Kind::Comment && words(&token.text));
    let calls = code.windows(2).filter(|pair| {
        matches!(pair[0].text.as_str(), "todo" | "unimplemented" | "dbg") && pair[1].text == "!"
    });
    let all = comments.chain(calls.map(|pair| pair[0]));
    all.map(|token| file.at(token, "left for later")).collect()
}

#[test]
fn nothing_is_left_for_later() {
    check(
        leftovers,
        &[
            ("src/new.rs", "fn f() {} // TODO: more"),
            ("src/new.rs", "/* a\n FIXME */"),
            ("src/new.rs", "//! XXX"),
            ("tests/new.rs", "fn f() { todo!() }"),
            ("examples/new.rs", "fn f() { unimplemented!(\"g\") }"),
        ],
        &[("src/new.rs", "// a mastodon\nconst S: &str = \"TODO\"; fn todo() {}")],
    );
}

fn sleeps(file: &File) -> Vec<String> {
    if file.is_under("benches") || SLEEPS.iter().any(|(path, _)| *path == file.path) {
        return Vec::new(); // a peer's pool may need a pause, and a bench is no test
    }
    let code = file.code();
    let is_sleep = |i: usize| match code[i].text.as_str() {
        "thread" => {
            use_tree(&code, i).0.iter().any(|path| path.get(1).is_some_and(|word| word.starts_with("sleep")))
        }
        "std" => use_tree(&code, i).0.iter().any(|path| {
            path.get(1).is_some_and(|word| word == "thread")
                && path.get(2).is_some_and(|word| word.starts_with("sleep"))
        }),
        "nanosleep" | "clock_nanosleep" | "usleep" => true,
        _ => false,
    };
    (0..code.len()).filter(|&i| is_sleep(i)).map(|i| file.at(code[i], "a sleep")).collect()
}

#[test]
fn nobody_sleeps_where_something_can_be_waited_for() {
    check(
        sleeps,
        &[
            ("src/new.rs", "fn f() { std::thread::sleep(SHORT); }"),
            ("tests/new.rs", "fn f() { thread::sleep_ms(1); }"),
            ("tests/new.rs", "use std::thread::{self, sleep};"),
            ("tests/new.rs", "use std::{fmt, thread::{spawn, sleep}};"),
            ("src/new.rs", "fn f() { libc::usleep(1); }"),
        ],
        &[(
            "src/new.rs",
            "use std::thread::{self, spawn};\nfn f(sleep: impl Fn()) { sleep(); word::sleep(); }",
        )],
    );
    let files = tree();
    for (path, why) in SLEEPS {
        let file = files.iter().find(|file| file.path == *path);
        assert!(
            file.is_some_and(|file| file.text.contains("sleep")),
            "{path} does not sleep any more: {why}"
        );
    }
}

// --- the reader itself ---

#[test]
fn tokens_are_what_rust_says() {
    let text = r####"let a = 'x'; // c 'y
let b = r#"crate::pool " "#; let c: &'static str = b"\""; /* a /* b */ crate */ let d = '\''; e::f"####;
    let all = tokens(text);
    let words: Vec<_> = all.iter().filter(|t| t.kind == Kind::Word).map(|t| t.text.as_str()).collect();
    assert_eq!(words, ["let", "a", "let", "b", "let", "c", "static", "str", "let", "d", "e", "f"]);
    assert_eq!(all.iter().filter(|t| t.kind == Kind::Comment).count(), 2);
    assert_eq!(all.last().map(|t| t.line), Some(2));
}
