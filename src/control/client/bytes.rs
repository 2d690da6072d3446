//! Requests with bytes behind them, and answers that have some.

use std::io::{self, Read, Write};

use super::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::flow::{self, Broken};
use crate::control::wire::{AddTo, Added, Object, ObjectOf, Request};

/// A file could not be read or written: who has it says which.
fn of_file(e: &io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Code::BrokenPipe, e),
        _ => Failure::failed(e),
    }
}

impl Client {
    /// However long it takes: the node reads, hashes or fetches before it answers.
    fn patiently(&mut self) -> Answer<()> {
        let stream = self.stream.get_mut();
        let set = stream.set_read_timeout(None);
        let set = set.and_then(|()| stream.set_write_timeout(None));
        set.map_err(|e| self.silent(&e))
    }

    /// Has all that is read kept, durable.
    ///
    /// # Errors
    /// As [`Self::ask`], or as the reader: then the connection is of no more use.
    pub fn add(&mut self, what: AddTo, from: &mut dyn Read) -> Answer<Added> {
        self.patiently()?;
        self.send(Request::Add(what))?;
        match flow::pour(from, self.stream.get_mut()) {
            Ok(()) => self.answer(),
            Err(Broken::File(e)) => Err(of_file(&e)),
            // It says why it takes no more before it closes.
            Err(Broken::Socket(e)) => match self.answer::<Added>() {
                Err(failure) if failure.code != Code::Unreachable => Err(failure),
                _ => Err(self.silent(&e)),
            },
        }
    }

    /// Writes bytes as they come; how many there are, which is for the caller to compare, as is
    /// what they are.
    ///
    /// # Errors
    /// As [`Self::ask`], or as the writer: then the connection is of no more use.
    pub fn get(&mut self, what: ObjectOf, to: &mut dyn Write) -> Answer<u64> {
        self.patiently()?;
        self.send(Request::Get(what))?;
        let length = self.answer()?;
        match flow::drain(&mut self.stream, to) {
            Ok(()) => {}
            Err(Broken::File(e)) => return Err(of_file(&e)),
            Err(Broken::Socket(e)) => return Err(self.silent(&e)),
        }
        self.answer::<()>()?;
        Ok(length)
    }

    /// What is known of bytes.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn object(&mut self, what: ObjectOf) -> Answer<Object> {
        self.patiently()?;
        self.ask(Request::Object(what))
    }
}
