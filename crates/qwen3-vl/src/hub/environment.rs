//! Configures the hub from environment variables, like Hugging Face's tools (huggingface_hub:
//! `constants.py`, `_auth.py`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Hub, Proxies};
use crate::file::read_bounded;
use qwen3_vl_core::load::LoadError;

impl Hub {
    /// The hub that the environment variables describe.
    ///
    /// # Errors
    ///
    /// If they give no folder for the cache.
    pub fn from_variables(all: impl Fn(&str) -> Option<String>) -> Result<Self, LoadError> {
        let variable = |name: &str| all(name).filter(|value| !value.is_empty());
        let is_true = |name: &str| {
            variable(name)
                .is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str()))
        };
        let folder = |name: &str| Some(expanded(&variable(name)?, variable("HOME")));
        let home = folder("HF_HOME").or_else(|| {
            let caches = folder("XDG_CACHE_HOME");
            let caches = caches.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| {
            LoadError::NotFound("no folder for downloads: set HOME or HF_HOME".into())
        })?;
        let stored = || {
            let file = folder("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")))?;
            String::from_utf8(read_bounded(&file, 4096).ok()?).ok()
        };
        let token = variable("HF_TOKEN")
            .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(stored)
            .filter(|_| !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let endpoint = variable("HF_ENDPOINT").unwrap_or("https://huggingface.co".into());
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').into(),
            cache,
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            stall_timeout: Duration::from_secs(60),
            proxies: Proxies::from_variables(all),
        })
    }
}

/// Expands `~` to the home folder, if no shell has done so.
fn expanded(path: &str, home: Option<String>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(&home).join(rest.trim_start_matches('/'))
        }
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Result<Hub, LoadError> {
        Hub::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn the_environment_is_read_as_the_hub_s_own_tools_do() -> anyhow::Result<()> {
        let plain = hub(&[("HOME", "/home/me")])?;
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert!(!plain.offline && plain.token.is_none());

        let cases = [
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("HOME", "/h"), ("HF_HOME", "/hf")], "/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/c"),
            // A service's variables, which no shell has expanded.
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub"),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "~")], "/h"),
            (&[("HOME", "/h"), ("HF_HUB_CACHE", "~other/c")], "~other/c"),
        ];
        for (variables, cache) in cases {
            assert_eq!(hub(variables)?.cache, Path::new(cache));
        }
        let set = hub(&[
            ("HF_HOME", "/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", " secret\n"),
            ("HF_HUB_OFFLINE", "1"),
        ])?;
        assert_eq!(set.endpoint, "http://mirror");
        assert_eq!(set.token.as_deref(), Some("secret"));
        assert!(set.offline);
        assert!(!hub(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")])?.offline);
        assert!(hub(&[("HOME", "/h"), ("TRANSFORMERS_OFFLINE", "1")])?.offline);
        assert!(hub(&[]).is_err());

        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("token"), "stored\n")?;
        let home = home.path().to_string_lossy().into_owned();
        let stored = hub(&[("HF_HOME", &home)])?;
        assert_eq!(stored.token.as_deref(), Some("stored"));
        let legacy = hub(&[("HF_HOME", &home), ("HUGGING_FACE_HUB_TOKEN", "older")])?;
        assert_eq!(legacy.token.as_deref(), Some("older"));
        // This setting forbids sending the token.
        for token in ["", "given"] {
            let variables = [
                ("HF_HOME", home.as_str()),
                ("HF_TOKEN", token),
                ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
            ];
            assert_eq!(hub(&variables)?.token, None);
        }
        Ok(())
    }

    #[test]
    fn a_token_is_not_shown_and_only_read_from_a_small_file() -> anyhow::Result<()> {
        let set = hub(&[("HF_HOME", "/hf"), ("HF_TOKEN", "secret")])?;
        assert!(!format!("{set:?}").contains("secret"));
        for file in ["/dev/zero", "/dev", "/proc/self/nothing"] {
            let token = hub(&[("HF_HOME", "/hf"), ("HF_TOKEN_PATH", file)])?.token;
            assert!(token.is_none(), "{file}");
        }
        Ok(())
    }
}
