//! Folders, endpoint and token: everything that the environment decides, read once.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::hub::HubError;

/// Access token of the hub. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token without the white space around it, or `None` if nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The secret itself, for the `Authorization` header.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where models are kept. A folder is unknown where neither its variable nor a home folder is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheDirs {
    kvscope: Option<PathBuf>,
    hub: Option<PathBuf>,
}

impl CacheDirs {
    /// Given folders: kvscope's own cache, and the hub's (the folder that holds `models--org--name`).
    pub fn at(kvscope: PathBuf, hub: PathBuf) -> Self {
        Self { kvscope: Some(kvscope), hub: Some(hub) }
    }

    /// Folders by the process's environment variables.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    /// Folders by the variables that `var` knows.
    ///
    /// - kvscope's own: `$KVSCOPE_CACHE`, else `$XDG_CACHE_HOME/kvscope`, else `~/.cache/kvscope`.
    /// - The hub's, as Hugging Face's own tools choose it: `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else
    ///   `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || folder("HOME").or_else(|| folder("USERPROFILE"));
        // The XDG specification says that a relative path is to be ignored.
        let user_cache = folder("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| home().map(|home| home.join(".cache")));
        let kvscope = folder("KVSCOPE_CACHE").or_else(|| user_cache.as_ref().map(|cache| cache.join("kvscope")));
        let hub = folder("HF_HUB_CACHE")
            .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
            .or_else(|| user_cache.as_ref().map(|cache| cache.join("huggingface").join("hub")));
        Self { kvscope, hub }
    }

    /// Folder of models with a short name, one folder each.
    pub fn models(&self) -> Result<PathBuf, HubError> {
        let kvscope = self.kvscope.as_ref().ok_or(HubError::NoCacheFolder { variable: "KVSCOPE_CACHE" })?;
        Ok(kvscope.join("models"))
    }

    /// Folder of models from the hub, in the layout that Hugging Face's own tools share.
    pub fn hub(&self) -> Result<&Path, HubError> {
        self.hub.as_deref().ok_or(HubError::NoCacheFolder { variable: "HF_HOME" })
    }
}

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Where models are kept.
    pub dirs: CacheDirs,
    /// Scheme and host, without a slash at the end.
    pub endpoint: String,
    /// Sent to the endpoint's host only.
    pub token: Option<Token>,
    /// How often a transfer that broke off is taken up again before it is given up.
    pub retries: u32,
}

impl HubSettings {
    /// The public hub without a token, four retries.
    pub fn new(dirs: CacheDirs) -> Self {
        Self { dirs, endpoint: "https://huggingface.co".into(), token: None, retries: 4 }
    }

    /// Settings by the process's environment variables.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    /// Settings by the variables that `var` knows: those of [`CacheDirs::from_vars`], `HF_ENDPOINT` and `HF_TOKEN`. Without
    /// `HF_TOKEN`, the token that `hf auth login` stored beside the hub's folder is used.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
        let mut settings = Self::new(CacheDirs::from_vars(var));
        if let Some(endpoint) = text("HF_ENDPOINT") {
            settings.endpoint = endpoint.trim_end_matches('/').into();
        }
        let stored = || {
            let path = match var("HF_HOME").filter(|home| !home.is_empty()) {
                Some(home) => PathBuf::from(home).join("token"),
                None => settings.dirs.hub.as_ref()?.parent()?.join("token"),
            };
            std::fs::read_to_string(path).ok()
        };
        settings.token = text("HF_TOKEN").or_else(stored).and_then(|token| Token::new(&token));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &'static [(&'static str, &'static str)]) -> CacheDirs {
        CacheDirs::from_vars(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_nearest_variable_decides() {
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("KVSCOPE_CACHE", "/k"), ("HF_HOME", "/f")]);
        assert_eq!((dirs.models().unwrap(), dirs.hub().unwrap()), ("/k/models".into(), Path::new("/f/hub")));
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", ""), ("HF_HUB_CACHE", "/c")]);
        assert_eq!((dirs.models().unwrap(), dirs.hub().unwrap()), ("/x/kvscope/models".into(), Path::new("/c")));
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]);
        assert_eq!(dirs.models().unwrap(), PathBuf::from("/h/.cache/kvscope/models"));
        assert_eq!(dirs.hub().unwrap(), Path::new("/h/.cache/huggingface/hub"));
    }

    #[test]
    fn without_a_home_the_error_names_the_variable() {
        let error = from(&[]).models().unwrap_err();
        assert!(error.hint().unwrap().contains("KVSCOPE_CACHE"), "{error}");
    }

    #[test]
    fn tokens_come_from_the_variable_then_the_file_and_stay_hidden() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "stored\n").unwrap();
        let home = dir.path().as_os_str().to_owned();
        let vars = |name: &str| (name == "HF_HOME").then(|| home.clone());
        let settings = HubSettings::from_vars(&vars);
        assert_eq!(settings.token, Token::new("stored"));
        let vars = |name: &str| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_TOKEN" => Some(" given ".into()),
            "HF_ENDPOINT" => Some("http://mirror:1/".into()),
            _ => None,
        };
        let settings = HubSettings::from_vars(&vars);
        assert_eq!(
            (settings.token.as_ref().unwrap().secret(), settings.endpoint.as_str()),
            ("given", "http://mirror:1")
        );
        assert!(!format!("{settings:?}").contains("given"));
    }
}
