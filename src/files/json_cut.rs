//! Finds the end of a JSON value in bytes that arrive in parts. Parses no more of JSON than that requires.

/// Greatest depth of a value; a deeper one is broken. Bounds the memory of a scanner.
const DEPTH_MAX: usize = 1 << 16;

/// The result of scanning one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on, or has not begun.
    Inside,
    /// The value has ended with this byte.
    Closed,
    /// The value can't continue with this byte: it is not JSON.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// The last token outside of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Open,
    Comma,
    Colon,
    Value,
}

/// Finds the ends of values. Skips all bytes between values.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    containers: Vec<Container>,
    in_string: bool,
    escaped: bool,
    last: Last,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Scanner { containers: Vec::new(), in_string: false, escaped: false, last: Last::Open }
    }

    /// Whether no value is under way.
    pub(super) fn is_outside(&self) -> bool {
        self.containers.is_empty() && !self.in_string
    }

    /// Scans the next byte.
    #[inline]
    pub(super) fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            return self.string(byte);
        }
        let fits = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => true,
            b'"' => {
                self.in_string = true;
                self.is_outside_containers() || self.last != Last::Value
            }
            b'{' => self.open(Container::Object),
            b'[' => self.open(Container::Array),
            b'}' => return self.close(Container::Object),
            b']' => return self.close(Container::Array),
            _ if self.is_outside_containers() => true,
            b',' => std::mem::replace(&mut self.last, Last::Comma) == Last::Value,
            b':' => {
                std::mem::replace(&mut self.last, Last::Colon) == Last::Value
                    && self.containers.last() == Some(&Container::Object)
            }
            _ => {
                self.last = Last::Value;
                true
            }
        };
        if fits { Step::Inside } else { Step::Broken }
    }

    fn is_outside_containers(&self) -> bool {
        self.containers.is_empty()
    }

    fn string(&mut self, byte: u8) -> Step {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                self.last = Last::Value;
                if self.containers.is_empty() {
                    return Step::Closed;
                }
            }
            // A line that was cut: a JSON string can't have a line feed in it.
            b'\n' => return Step::Broken,
            _ => {}
        }
        Step::Inside
    }

    /// Whether a container may begin here.
    fn open(&mut self, container: Container) -> bool {
        let fits = match self.containers.last() {
            None => true,
            Some(Container::Object) => self.last == Last::Colon,
            Some(Container::Array) => matches!(self.last, Last::Open | Last::Comma),
        };
        self.containers.push(container);
        self.last = Last::Open;
        fits && self.containers.len() <= DEPTH_MAX
    }

    fn close(&mut self, container: Container) -> Step {
        if self.containers.is_empty() {
            return Step::Inside;
        }
        let fits = self.containers.pop() == Some(container);
        self.last = Last::Value;
        match (fits, self.containers.is_empty()) {
            (false, _) => Step::Broken,
            (true, true) => Step::Closed,
            (true, false) => Step::Inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the position at which a value ends, or breaks.
    fn end(text: &str) -> (usize, Step) {
        let mut scanner = Scanner::new();
        for (at, byte) in text.bytes().enumerate() {
            let step = scanner.step(byte);
            if step != Step::Inside {
                return (at, step);
            }
        }
        (text.len(), Step::Inside)
    }

    #[test]
    fn value_ends_at_the_byte_that_closes_it() {
        for text in [
            "{}",
            "[]",
            "\"a\"",
            "\"a\\\"b\"",
            "{\"a\":{\"b\":[1,2,{}]},\"c\":\"}\"}",
            "{\n  \"a\" : -1.5e3,\n  \"b\" : [\n    null,\n    true\n  ]\n}",
            "{\"\\\\\":\"\\\\\"}",
        ] {
            assert_eq!(end(text), (text.len() - 1, Step::Closed), "{text}");
            assert_eq!(end(&format!("{text},{text}")).0, text.len() - 1, "{text}");
            for cut in 1..text.len() - 1 {
                assert_eq!(end(&text[..cut]), (cut, Step::Inside), "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn value_that_was_cut_breaks_where_the_next_one_begins() {
        let next = "\n{\"b\":1}";
        for cut in ["{\"a\":1", "{\"a\":1,", "{\"a", "{\"a\":\"b", "{", "{\"a\":{", "{\"a\"", "[1"]
        {
            let (at, step) = end(&format!("{cut}{next}"));
            assert_eq!(step, Step::Broken, "{cut}");
            assert!((cut.len()..=cut.len() + 1).contains(&at), "{cut}: {at}");
        }
        for broken in ["{]", "[}", "{\"a\":1]", "[1:", "{\"a\" \"", "{:", "[,", "{\"a\":,"] {
            assert_eq!(end(broken), (broken.len() - 1, Step::Broken), "{broken}");
        }
        assert_eq!(end(&"[".repeat(1 << 20)), (DEPTH_MAX, Step::Broken));
    }
}
