//! Buckets of object stores, as `s3://BUCKET/…` names them.

use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientConfigKey, RetryConfig};

/// The beginning of the name of a place in a bucket.
pub const SCHEME: &str = "s3://";

/// Time after which a request that fails is given up.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for a request with its content, which may be large, and the way to the store narrow.
const REQUEST_TIMEOUT: &str = "5 minutes";

/// Opens a bucket. Region, endpoint and credentials come from the variables `AWS_…` of the environment, or from the
/// machine.
///
/// # Errors
/// A variable has a value that can't be used.
pub fn open(bucket: &str) -> object_store::Result<AmazonS3> {
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    if is_plain {
        builder = builder.with_allow_http(true);
    }
    if std::env::var_os("AWS_TIMEOUT").is_none() {
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        builder = builder.with_config(timeout, REQUEST_TIMEOUT);
    }
    builder.build()
}
