//! The code of the running program, as numbers that mean the same in each process that runs the same build.
//!
//! Two processes of one program load it at different addresses, but the distance between two points of one *image*
//! (the executable, or a shared library) is the same in both. So code is named by its distance from the [`ANCHOR`], a
//! data symbol of this crate. Data, because the compiler may keep several copies of a function; of a static there is
//! one. "The image" is the one that contains the anchor, which is right in a shared library, too.
//!
//! | question | answer |
//! |---|---|
//! | code -> number | [`anchor_offset_of`]: only for code of the anchor's image |
//! | number -> code | [`code_at`]: only into the executable segments of that image |
//! | is it the same build? | [`build_id`]: the linker's note, else a hash of the code |
//! | what did the loader not run yet? | [`run_remaining_constructors`] |
//!
//! The range check makes a wrong number an error, not the right function: that the number comes from the same build
//! must be known from the build id before.
//!
//! All answers come from the program headers (`dl_iterate_phdr`), are found once and kept: images that contain running
//! code are not moved.
#![allow(unsafe_code, reason = "program headers, notes and constructors are read through raw pointers")]

use crate::atomic::{AcqRel, Acquire, Private64};
use libc::{c_char, c_int, c_void, dl_phdr_info, size_t};
use std::ops::Range;

/// See the header. Its value does not matter.
static ANCHOR: u64 = u64::from_ne_bytes(*b"allmend\0");

/// Never inlined into another image, so that it always speaks of this one.
#[inline(never)]
fn anchor() -> usize {
    (&raw const ANCHOR).addr()
}

/// An entry of `.init_array`. glibc passes the arguments, musl does not.
pub(crate) type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

const DT_NULL: isize = 0;
const DT_INIT_ARRAY: isize = 25;
const DT_INIT_ARRAYSZ: isize = 27;
const NT_GNU_BUILD_ID: u32 = 3;

/// An entry of the dynamic section (`ElfN_Dyn`: two words).
#[repr(C)]
#[derive(Clone, Copy)]
struct Dynamic {
    tag: isize,
    value: usize,
}

/// Where things lie in this process. All ranges are addresses.
#[derive(Debug)]
struct Image {
    code: Vec<Range<usize>>,
    init_array: Option<Range<usize>>,
    build_id: [u8; 20],
}

fn image() -> Option<&'static Image> {
    // The address of what was found; 0 before. No `OnceLock`: a child that was forked while another thread was in it
    // would wait for that thread for ever. Two threads may find the same at the same time, and one of them leaves it.
    static IMAGE: Private64 = Private64::new(0);
    let kept = match IMAGE.load(Acquire) {
        0 => {
            let found: &'static _ = Box::leak(Box::new(find(|headers| headers.image_around(anchor()))));
            let address = std::ptr::from_ref::<Option<Image>>(found).expose_provenance();
            // Release: what was found goes with its address.
            match IMAGE.compare_exchange(0, address as u64, AcqRel, Acquire) {
                Ok(_) => address as u64,
                Err(other) => other,
            }
        }
        kept => kept,
    };
    let kept: *const Option<Image> = std::ptr::with_exposed_provenance(kept as usize);
    // SAFETY: not 0, so it is the address of a box that was leaked, and whose content nobody changes.
    unsafe { &*kept }.as_ref()
}

/// The distance of `code` from the anchor, if it is code of the anchor's image.
pub(crate) fn anchor_offset_of(code: *const ()) -> Option<i64> {
    image()?.is_code(code.addr()).then(|| code.addr().wrapping_sub(anchor()) as isize as i64)
}

/// The code at this distance from the anchor, if there is code.
pub(crate) fn code_at(offset: i64) -> Option<*const ()> {
    let address = anchor().checked_add_signed(isize::try_from(offset).ok()?)?;
    // A function's address was exposed when the loader wrote it; there is no pointer to derive it from.
    image()?.is_code(address).then(|| std::ptr::with_exposed_provenance(address))
}

/// Which build this image is: its GNU build id (cut or filled up with zeros to 20 bytes), else a hash of its code.
/// Zeros if neither can be had; then no code can be named either.
pub(crate) fn build_id() -> [u8; 20] {
    image().map_or([0; 20], |image| image.build_id)
}

/// Runs the constructors of this image that come after `own`, in their order, and says how many they were; `None` if
/// `own` is not in the image's list.
///
/// For a constructor that does not return: what the loader would have run after it is run by it. `own` is the *entry*
/// (the static in `.init_array`), not the function: of a function there may be copies. Images that come later (those
/// that depend on this one, if it is a library) are not covered.
///
/// # Safety
/// Must be called by the constructor behind `own`, while the loader runs it, with the arguments that it was given
/// (under musl, which gives none: `0`, null, `environ`), and it must never return to the loader: each constructor
/// counts on being run once.
pub(crate) unsafe fn run_remaining_constructors(
    own: &'static Constructor,
    argc: c_int,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> Option<usize> {
    let list = image()?.init_array.clone()?;
    let own = std::ptr::from_ref(own);
    if !list.contains(&own.addr()) {
        return None;
    }
    // With the provenance of the whole list, not of one entry.
    let entries: *const Option<Constructor> = std::ptr::with_exposed_provenance(list.start);
    let first = (own.addr() - list.start) / size_of::<Constructor>() + 1;
    let count = list.len() / size_of::<Constructor>();
    let mut ran = 0;
    for i in first..count {
        // SAFETY: within the list, by `count`.
        let entry = unsafe { entries.add(i) };
        // SAFETY: the loader has written these entries and calls them itself: each is a function or null.
        if let Some(constructor) = unsafe { entry.read() } {
            constructor(argc, argv, envp);
            ran += 1;
        }
    }
    Some(ran)
}

/// Shows the loaded images to `look`, one after the other, until it finds something. It must not unwind.
fn find<R, F: FnMut(&Headers<'_>) -> Option<R>>(look: F) -> Option<R> {
    struct Search<R, F> {
        look: F,
        found: Option<R>,
    }
    extern "C" fn one<R, F: FnMut(&Headers<'_>) -> Option<R>>(
        info: *mut dl_phdr_info,
        _: size_t,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: `dl_iterate_phdr` below passes its last argument on, and only this call uses it.
        let search = unsafe { &mut *search.cast::<Search<R, F>>() };
        // SAFETY: the loader passes a valid description, for the time of this call.
        let info = unsafe { &*info };
        search.found = (search.look)(&Headers::of(info));
        c_int::from(search.found.is_some()) // not 0 ends the search
    }
    let mut search = Search { look, found: None };
    // SAFETY: `one` fits, and `search` outlives the call. An unwinding `one` would abort: it is `extern "C"`.
    unsafe { libc::dl_iterate_phdr(Some(one::<R, F>), (&raw mut search).cast()) };
    search.found
}

impl Image {
    fn is_code(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }
}

/// The program headers of one loaded image.
struct Headers<'a> {
    /// What the loader added to the addresses of the file.
    base: usize,
    headers: &'a [libc::Elf64_Phdr],
}

impl<'a> Headers<'a> {
    fn of(info: &'a dl_phdr_info) -> Self {
        let headers = if info.dlpi_phdr.is_null() {
            &[]
        } else {
            // SAFETY: the loader says that there are so many, and keeps them while the image is loaded.
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) }
        };
        Self { base: info.dlpi_addr as usize, headers }
    }

    fn range(&self, header: &libc::Elf64_Phdr) -> Range<usize> {
        let start = self.base.wrapping_add(header.p_vaddr as usize);
        start..start.saturating_add(header.p_memsz as usize)
    }

    fn kind(&self, kind: u32) -> impl Iterator<Item = &'a libc::Elf64_Phdr> + use<'a> {
        self.headers.iter().filter(move |header| header.p_type == kind)
    }

    /// Loaded segments that have all permissions of `with` and none of `without`.
    fn loaded(&self, with: u32, without: u32) -> impl Iterator<Item = Range<usize>> {
        self.kind(libc::PT_LOAD)
            .filter(move |header| header.p_flags & (with | without) == with)
            .map(|header| self.range(header))
    }

    /// What this crate asks about this image, if it contains `address` and its build can be told.
    fn image_around(&self, address: usize) -> Option<Image> {
        if !self.loaded(0, 0).any(|range| range.contains(&address)) {
            return None;
        }
        Some(Image {
            code: self.loaded(libc::PF_X, 0).collect(),
            init_array: self.init_array(),
            build_id: self.build_id_note().or_else(|| self.code_hash())?,
        })
    }

    /// The bytes of a range that lies in a segment which can be read and never changes.
    fn constant_bytes(&self, range: Range<usize>) -> Option<&'a [u8]> {
        let inside = |of: Range<usize>| of.start <= range.start && range.end <= of.end;
        self.loaded(libc::PF_R, libc::PF_W).any(inside).then(|| {
            let start = std::ptr::with_exposed_provenance(range.start);
            // SAFETY: mapped, readable and not writable, by the check above, while the image is loaded.
            unsafe { std::slice::from_raw_parts(start, range.len()) }
        })
    }

    fn build_id_note(&self) -> Option<[u8; 20]> {
        self.kind(libc::PT_NOTE).find_map(|header| {
            let align = if header.p_align == 8 { 8 } else { 4 };
            build_id_among(self.constant_bytes(self.range(header))?, align)
        })
    }

    /// Without a note: 64 bits of FNV-1a over the code. `None` if no code can be read, or it may change.
    fn code_hash(&self) -> Option<[u8; 20]> {
        self.loaded(libc::PF_R | libc::PF_X, libc::PF_W)
            .filter_map(|range| self.constant_bytes(range))
            .fold(None, |hash, bytes| Some(fnv1a(hash.unwrap_or(FNV_OFFSET), bytes)))
            .map(|hash| filled(&hash.to_ne_bytes()))
    }

    fn init_array(&self) -> Option<Range<usize>> {
        let section = self.range(self.kind(libc::PT_DYNAMIC).next()?);
        let entries: *const Dynamic = std::ptr::with_exposed_provenance(section.start);
        let (mut start, mut bytes) = (None, 0);
        for i in 0..section.len() / size_of::<Dynamic>() {
            // SAFETY: within the section.
            let entry = unsafe { entries.add(i) };
            // SAFETY: the dynamic section is part of a loaded segment, is aligned, and the loader is done with it.
            match unsafe { entry.read() } {
                Dynamic { tag: DT_NULL, .. } => break,
                Dynamic { tag: DT_INIT_ARRAY, value } => start = Some(self.base.wrapping_add(value)),
                Dynamic { tag: DT_INIT_ARRAYSZ, value } => bytes = value,
                Dynamic { .. } => {}
            }
        }
        start.map(|start| start..start.saturating_add(bytes))
    }
}

/// The GNU build id among these notes: each is three 32-bit words (length of the name, length of the content, type),
/// the name, and the content, both filled up to `align`.
fn build_id_among(mut notes: &[u8], align: usize) -> Option<[u8; 20]> {
    loop {
        let (name_len, rest) = notes.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (name_len, len) = (u32::from_ne_bytes(*name_len) as usize, u32::from_ne_bytes(*len) as usize);
        // The three words before the name count for its alignment.
        let name_end = (12 + name_len).next_multiple_of(align) - 12;
        let content = rest.get(name_end..)?;
        if u32::from_ne_bytes(*kind) == NT_GNU_BUILD_ID && rest.get(..name_len)? == b"GNU\0" {
            return content.get(..len).filter(|id| !id.is_empty()).map(filled);
        }
        notes = content.get(len.next_multiple_of(align)..)?;
    }
}

/// The first 20 bytes, filled up with zeros.
fn filled(bytes: &[u8]) -> [u8; 20] {
    let mut id = [0; 20];
    id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    id
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        atomic::{Private32, Relaxed},
        os::process::{Exit, THIS_PROGRAM, poll, spawn},
    };
    use rustix::fd::AsFd;
    use std::{
        ffi::{CStr, CString, OsStr},
        io::Read,
        time::Duration,
    };

    const HELPER: &CStr = c"ALLMEND_TEST_IMAGE_HELPER";

    fn generic<T: Default + Into<f64>>(x: f64) -> f64 {
        x + T::default().into() + size_of::<T>() as f64
    }

    /// Starts this test program again as a helper, and gives its exit and what it wrote to the descriptor.
    fn again(role: &str) -> (Exit, String) {
        let (mut read, write) = std::io::pipe().unwrap();
        let name = format!("{}::helper_of_the_tests", module_path!().split_once("::").unwrap().1);
        let arguments = [c"helper", &CString::new(name).unwrap(), c"--exact", c"--nocapture"];
        let extra = [(OsStr::new(HELPER.to_str().unwrap()), OsStr::new(role))];
        let quiet = std::fs::File::create("/dev/null").unwrap();
        let inherit = [(quiet.as_fd(), 1), (write.as_fd(), 2)];
        let mut child = spawn(THIS_PROGRAM, &arguments, &extra, &inherit).unwrap();
        drop(write);
        assert_eq!(
            poll(&[child.pidfd()], Some(Duration::from_secs(60))).unwrap(),
            [true],
            "the helper did not end"
        );
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        (child.wait().unwrap(), text)
    }

    /// What must be the same in each process of one build.
    fn names() -> String {
        let code =
            [generic::<u8> as fn(f64) -> f64 as *const (), generic::<f32> as fn(f64) -> f64 as *const ()];
        let hash = find(|headers| headers.image_around(anchor()).and_then(|_| headers.code_hash()));
        format!("{:?} {:?} {:?}", code.map(anchor_offset_of), build_id(), hash.unwrap())
    }

    #[test]
    fn helper_of_the_tests() {
        if std::env::var(HELPER.to_str().unwrap()).is_ok_and(|role| role == "names") {
            eprint!("{}", names());
        }
    }

    #[test]
    fn code_has_the_same_name_in_another_process() {
        assert_eq!(again("names"), (Exit::Code(0), names()));
        assert!(!names().contains("None"));
    }

    #[test]
    fn a_name_leads_back_to_the_code() {
        for (function, size) in [(generic::<u8> as fn(f64) -> f64, 1.0), (generic::<f64>, 8.0)] {
            let code = code_at(anchor_offset_of(function as *const ()).unwrap()).unwrap();
            assert_eq!(code, function as *const ());
            #[allow(clippy::disallowed_methods, reason = "what is tested")]
            // SAFETY: equal to the address of a function of this type, by the line above.
            let again = unsafe { std::mem::transmute::<*const (), fn(f64) -> f64>(code) };
            assert_eq!(again(1.0), 1.0 + size);
        }
    }

    #[test]
    fn what_is_not_code_of_this_image_has_no_name() {
        // SAFETY: the name ends with NUL.
        let library = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"getpid".as_ptr()) };
        assert!(!library.is_null());
        let (local, heap) = (0u8, Box::new(0u8));
        let data: [*const (); 5] = [
            (&raw const ANCHOR).cast(),
            (&raw const local).cast(),
            (&raw const *heap).cast(),
            library.cast(),
            std::ptr::null(),
        ];
        for address in data {
            assert_eq!(anchor_offset_of(address), None, "{address:?}");
            assert_eq!(code_at(address.addr().wrapping_sub(anchor()) as i64), None, "{address:?}");
        }
        for offset in [0, i64::MAX, i64::MIN, -1] {
            assert_eq!(code_at(offset), None, "{offset}");
        }
        // Both ends of the code: its first byte is in, the first byte behind it is not.
        for code in &image().unwrap().code {
            assert!(anchor_offset_of(std::ptr::without_provenance(code.start)).is_some());
            assert!(anchor_offset_of(std::ptr::without_provenance(code.end - 1)).is_some());
            assert_eq!(anchor_offset_of(std::ptr::without_provenance(code.end)), None);
        }
    }

    #[test]
    fn the_build_id_is_the_linkers() {
        let exe = std::env::current_exe().unwrap();
        let Ok(output) = std::process::Command::new("readelf").arg("-n").arg(exe).output() else {
            eprintln!("skipped: no readelf");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let id: String = build_id().iter().map(|byte| format!("{byte:02x}")).collect();
        match text.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")) {
            Some(expected) => assert_eq!(id, format!("{:0<40}", &expected[..expected.len().min(40)])),
            None => assert_eq!(id[16..], "0".repeat(24), "a hash, filled up"),
        }
    }

    fn note(name: &[u8], kind: u32, content: &[u8], align: usize) -> Vec<u8> {
        let mut note = [name.len() as u32, content.len() as u32, kind].map(u32::to_ne_bytes).concat();
        note.extend(name);
        note.resize(note.len().next_multiple_of(align), 0);
        note.extend(content);
        note.resize(note.len().next_multiple_of(align), 0);
        note
    }

    #[test]
    fn a_build_id_is_found_among_other_notes() {
        for align in [4, 8] {
            let others =
                [note(b"GNU\0", 5, b"property", align), note(b"stapsdt\0", 3, b"not GNU's", align)].concat();
            let all = [others.clone(), note(b"GNU\0", 3, b"12345678901234567890", align)].concat();
            assert_eq!(build_id_among(&all, align), Some(*b"12345678901234567890"));
            let short = [others.clone(), note(b"GNU\0", 3, b"12345", align)].concat();
            assert_eq!(build_id_among(&short, align), Some(*b"12345\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"));
            for cut in 0..all.len() {
                let found = build_id_among(&all[..cut], align);
                assert!(found.is_none() || cut >= others.len() + 36, "cut at {cut}: {found:?}");
            }
            assert_eq!(build_id_among(&others, align), None);
            assert_eq!(build_id_among(&note(b"GNU\0", 3, b"", align), align), None);
        }
        assert_eq!(fnv1a(FNV_OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
    }

    // Constructors whose order the linker is told: the number is the priority, and none comes last. What the linker
    // adds (`frame_dummy`) has none.
    static EARLY_RAN: Private32 = Private32::new(0);
    static NEXT_RAN: Private32 = Private32::new(0);
    static LAST_RAN: Private32 = Private32::new(0);

    // One thread, the loader's: no order is needed.
    extern "C" fn early(_: c_int, _: *const *const c_char, _: *const *const c_char) {
        EARLY_RAN.fetch_add(1, Relaxed);
    }

    extern "C" fn next(_: c_int, _: *const *const c_char, _: *const *const c_char) {
        NEXT_RAN.fetch_add(1, Relaxed);
    }

    extern "C" fn last(_: c_int, _: *const *const c_char, _: *const *const c_char) {
        LAST_RAN.fetch_add(1, Relaxed);
    }

    fn have_run() -> [u32; 3] {
        [&EARLY_RAN, &NEXT_RAN, &LAST_RAN].map(|count| count.load(Relaxed))
    }

    /// In the helper it takes over, as the pool's hook does. In all other processes it does nothing.
    extern "C" fn own(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) {
        // SAFETY: the name ends with NUL, and nothing changes the environment yet.
        let role = unsafe { libc::getenv(HELPER.as_ptr()) };
        // SAFETY: not null, so a string that ends with NUL.
        if role.is_null() || unsafe { CStr::from_ptr(role) } != c"constructors" {
            return;
        }
        let before = have_run();
        // SAFETY: this is the constructor behind `OWN`, run by the loader, and it does not return.
        let ran = unsafe { run_remaining_constructors(&OWN, argc, argv, envp) };
        let right = before == [1, 0, 0] && have_run() == [1, 1, 1] && ran >= Some(2);
        // SAFETY: ends the process.
        unsafe { libc::_exit(if right { 42 } else { 43 }) }
    }

    #[used]
    #[unsafe(link_section = ".init_array.50000")]
    static EARLY: Constructor = early;
    #[used]
    #[unsafe(link_section = ".init_array.50001")]
    static OWN: Constructor = own;
    #[used]
    #[unsafe(link_section = ".init_array.50002")]
    static NEXT: Constructor = next;
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LAST: Constructor = last;

    #[test]
    fn a_constructor_that_stays_runs_those_after_it_once() {
        assert_eq!(again("constructors").0, Exit::Code(42));
        assert_eq!(have_run(), [1, 1, 1], "and here the loader ran them");
    }

    #[test]
    fn an_entry_that_is_not_in_the_list_runs_nothing() {
        static ELSEWHERE: Constructor = last;
        // SAFETY: `ELSEWHERE` is not in `.init_array`, so nothing is run.
        let ran = unsafe { run_remaining_constructors(&ELSEWHERE, 0, std::ptr::null(), std::ptr::null()) };
        assert_eq!(ran, None);
    }
}
