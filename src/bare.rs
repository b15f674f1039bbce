//! Named segments without a directory of objects, for this crate's own tests and bench: what lies below a manager.
//!
//! Objects are found by their place, which a test passes on by itself. Not a part of the API.

use crate::{
    CreateError, HandleError, OpenError, Report, SharedAtomic, SharedValue, VerifyError,
    segment::{Place, Segment, named::NamedOptions},
};
use bytemuck::Pod;
use std::sync::Arc;

/// How to create or open; see `NamedOptions`.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of address space.
    pub reserve: Option<u64>,
    /// Places for processes.
    pub max_processes: Option<u32>,
    /// Permission bits.
    pub mode: u32,
    /// Another user's will do.
    pub foreign: bool,
    /// Without writing.
    pub read_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { reserve: None, max_processes: None, mode: 0o600, foreign: false, read_only: false }
    }
}

impl Options {
    fn named(self) -> NamedOptions {
        let Self { reserve, max_processes, mode, foreign, read_only } = self;
        NamedOptions { reserve, max_processes, mode, foreign, read_only }
    }
}

/// One named segment.
#[derive(Clone, Debug)]
pub struct Bare(Arc<Segment>);

/// Where an object is: offset and generation.
pub type At = (u64, u64);

fn place((at, generation): At) -> Place {
    Place { at, generation }
}

#[allow(missing_docs, clippy::missing_errors_doc, reason = "each is the call of `Segment` of that name")]
impl Bare {
    pub fn create(name: &str, options: Options) -> Result<Self, OpenError> {
        Segment::create_named(name, &options.named()).map(Self)
    }
    pub fn open(name: &str, options: Options) -> Result<Self, OpenError> {
        Segment::open_named(name, &options.named()).map(Self)
    }
    pub fn open_or_create(name: &str, options: Options) -> Result<Self, OpenError> {
        Segment::open_or_create_named(name, &options.named()).map(Self)
    }
    pub fn remove(name: &str) -> Result<(), OpenError> {
        Segment::remove_named(name)
    }
    pub fn persist(&self) -> Result<(), OpenError> {
        self.0.persist()
    }
    pub fn unlink(&self) -> Result<(), OpenError> {
        self.0.unlink()
    }
    pub fn name(&self) -> Option<&str> {
        self.0.name()
    }
    pub fn id(&self) -> u128 {
        self.0.id()
    }
    pub fn verify(&self) -> Result<Report, VerifyError> {
        self.0.verify()
    }
    pub fn value<T: Pod>(&self, value: T) -> Result<(SharedValue<T>, At), CreateError> {
        let value = SharedValue::<T>::place_in(&self.0, value)?;
        let place = value.object().place();
        Ok((value, (place.at, place.generation)))
    }
    pub fn open_value<T: Pod>(&self, at: At) -> Result<SharedValue<T>, HandleError> {
        SharedValue::open_in(&self.0, place(at))
    }
    pub fn atomic(&self, value: u64) -> Result<(SharedAtomic<u64>, At), CreateError> {
        let value = SharedAtomic::place_in(&self.0, value)?;
        let place = value.object().place();
        Ok((value, (place.at, place.generation)))
    }
    pub fn open_atomic(&self, at: At) -> Result<SharedAtomic<u64>, HandleError> {
        SharedAtomic::open_in(&self.0, place(at))
    }
}
