//! The producer of an open transaction, by the requests `DescribeProducers` and `ListTransactions` (Kafka
//! 2.8 and 3.0 or later).
//!
//! librdkafka has neither, so this module speaks the protocol itself, over a connection without TLS and
//! passwords. On other connections the producer stays unknown: the log names the command that shows it.

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// Time limit for one step of a connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest response that is read: a partition has some dozens of producers.
const RESPONSE_MAX: usize = 1 << 20;

const DESCRIBE_PRODUCERS: i16 = 61;
const LIST_TRANSACTIONS: i16 = 66;

/// The producer of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TransactionProducer {
    pub(super) id: i64,
    pub(super) epoch: i32,
    /// The producer's `transactional.id`, if this user may read it.
    pub(super) transactional_id: Option<String>,
}

/// Finds the producer of the transaction that begins at an offset. `leader` is the leader of the partition,
/// one of `brokers`, each as (host, port).
pub(super) fn find(
    leader: &(String, u16),
    brokers: &[(String, u16)],
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<TransactionProducer>> {
    let mut request = Request::new(DESCRIBE_PRODUCERS);
    request.count(1).text(topic).count(1).i32(partition).no_tags().no_tags();
    let response = request.send(leader)?;
    let Some((id, epoch)) = producer_at(&response, offset)? else { return Ok(None) };
    let name = |broker| {
        let mut request = Request::new(LIST_TRANSACTIONS);
        request.count(0).count(1).i64(id).no_tags();
        transactional_id(&request.send(broker)?, id)
    };
    // The coordinator may be any broker; a broker that does not respond is skipped.
    let transactional_id = brokers.iter().find_map(|broker| name(broker).ok().flatten());
    Ok(Some(TransactionProducer { id, epoch, transactional_id }))
}

/// Returns the id and epoch of the producer whose transaction begins at an offset.
fn producer_at(response: &[u8], offset: i64) -> Result<Option<(i64, i32)>> {
    let mut fields = Fields(response);
    let (mut found, _throttled) = (None, fields.i32()?);
    for _ in 0..fields.count()? {
        fields.text()?;
        for _ in 0..fields.count()? {
            let (_partition, _error, _message) = (fields.i32()?, fields.i16()?, fields.text()?);
            for _ in 0..fields.count()? {
                let (id, epoch) = (fields.i64()?, fields.i32()?);
                let (_sequence, _time, _coordinator) =
                    (fields.i32()?, fields.i64()?, fields.i32()?);
                if fields.i64()? == offset {
                    found = Some((id, epoch));
                }
                fields.tags()?;
            }
            fields.tags()?;
        }
        fields.tags()?;
    }
    Ok(found)
}

/// Returns the transactional id of a producer.
fn transactional_id(response: &[u8], producer: i64) -> Result<Option<String>> {
    let mut fields = Fields(response);
    let (_throttled, _error) = (fields.i32()?, fields.i16()?);
    for _ in 0..fields.count()? {
        fields.text()?;
    }
    let mut found = None;
    for _ in 0..fields.count()? {
        let (name, id, _state) = (fields.text()?, fields.i64()?, fields.text()?);
        if id == producer {
            found = Some(name);
        }
        fields.tags()?;
    }
    Ok(found)
}

/// A request of version 0, whose lengths are "compact".
struct Request(Vec<u8>);

impl Request {
    fn new(key: i16) -> Self {
        let mut request = Request(Vec::new());
        // Version, correlation id, client id.
        request.0.extend(key.to_be_bytes());
        request.0.extend([0, 0, 0, 0, 0, 1, 0, 9]);
        request.0.extend(b"floodmark");
        request.no_tags();
        request
    }

    fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Appends the number of elements or bytes that follow, plus one, in base 128.
    fn count(&mut self, count: usize) -> &mut Self {
        let mut left = count + 1;
        while left > 0x7f {
            self.0.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        self.0.push(left as u8);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).0.extend(text.as_bytes());
        self
    }

    fn no_tags(&mut self) -> &mut Self {
        self.0.push(0);
        self
    }

    /// Sends the request over a connection of its own, and returns the body of the response.
    fn send(&self, (host, port): &(String, u16)) -> Result<Vec<u8>> {
        let address = (host.as_str(), *port).to_socket_addrs()?.next();
        let address = address.ok_or_else(|| Error::from(ErrorKind::NotFound))?;
        let mut stream = TcpStream::connect_timeout(&address, STEP_TIMEOUT)?;
        stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        stream.set_write_timeout(Some(STEP_TIMEOUT))?;
        let length =
            u32::try_from(self.0.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&self.0)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > RESPONSE_MAX {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut response = vec![0; length];
        stream.read_exact(&mut response)?;
        let mut fields = Fields(&response);
        fields.i32()?;
        fields.tags()?;
        Ok(fields.0.to_vec())
    }
}

/// The unread rest of a response.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) =
            self.0.split_at_checked(count).ok_or(Error::from(ErrorKind::UnexpectedEof))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("as many bytes as were taken"))
    }

    fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn base_128(&mut self) -> Result<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ErrorKind::InvalidData.into())
    }

    /// Reads the number of elements or bytes that follow; 0 for null.
    fn count(&mut self) -> Result<usize> {
        Ok(self.base_128()?.saturating_sub(1))
    }

    fn text(&mut self) -> Result<String> {
        let count = self.count()?;
        Ok(String::from_utf8_lossy(self.bytes(count)?).into_owned())
    }

    fn tags(&mut self) -> Result<()> {
        for _ in 0..self.base_128()? {
            self.base_128()?;
            let count = self.base_128()?;
            self.bytes(count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One topic with one partition, and two producers, of which the second has a transaction at 7.
    fn described() -> Vec<u8> {
        let mut body = Request(Vec::new());
        body.i32(0).count(1).text("flows").count(1).i32(3);
        // No error code, and no error message.
        body.0.extend([0, 0, 0]);
        body.count(2);
        for (id, begin) in [(40, -1), (41, 7)] {
            body.i64(id).i32(2).i32(9).i64(1_700_000_000_000).i32(0).i64(begin).no_tags();
        }
        body.no_tags().no_tags().no_tags();
        body.0
    }

    #[test]
    fn producer_is_found_by_the_first_offset_of_its_transaction() {
        assert_eq!(producer_at(&described(), 7).expect("a response"), Some((41, 2)));
        assert_eq!(producer_at(&described(), 8).expect("a response"), None);
    }

    #[test]
    fn transactional_id_is_found_by_the_id_of_its_producer() {
        let mut body = Request(Vec::new());
        body.i32(0);
        body.0.extend([0, 0]);
        body.count(0).count(2);
        body.text("other").i64(40).text("Ongoing").no_tags();
        body.text("writer").i64(41).text("Ongoing").no_tags().no_tags();
        assert_eq!(transactional_id(&body.0, 41).expect("a response").as_deref(), Some("writer"));
        assert_eq!(transactional_id(&body.0, 42).expect("a response"), None);
    }

    #[test]
    fn truncated_response_is_an_error() {
        let whole = described();
        for length in 0..whole.len() - 3 {
            assert!(producer_at(&whole[..length], 7).is_err(), "{length}");
        }
        assert!(producer_at(&[0xff; 64], 7).is_err());
    }
}
