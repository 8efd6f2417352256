"""Generate the configuration of nginx for a folder hub, which `tools/serve.py --print-nginx` prints.

    python tools/serve.py --hub /srv/hub --port 8080 --print-nginx > /etc/nginx/conf.d/hub.conf

The text is made from the server's own tables (media types, cache lifetimes, headers), and the tests run nginx with it.
"""

import re
from collections.abc import Iterable

from tools.catalog import layout
from tools.common.problems import with_fix
from tools.hub.storage import CONTENT_TYPES, IMMUTABLE, REVALIDATE, Storage, StorageError
from tools.server.messages import OTHER_FORMATS, SECURITY_HEADERS

# nginx compresses these for those who take it; archives and pictures are compressed already.
COMPRESSED = (".css", ".js", ".json", ".md", ".svg", ".txt", ".xml")

TEMPLATE = """\
# A hub's folder behind nginx: include this in the http block (a file in conf.d is). Made by `tools/serve.py --print-nginx`.

# $arg_NAME cannot name an argument with hyphens, so the format that a client asks for is taken from the query.
map $args $hub_format {
    default                                         "";
    "~(?:^|&)tf-hub-format=compressed(?:&|$)"       compressed;
    "~(?:^|&)lite-format=tflite(?:&|$)"             lite;
    "~(?:^|&)(?:@FORMATS@)(?:=|&|$)"  other;
}

# Archives never change; pages do, and are asked for again. Without `always` below, errors are never kept.
map $uri $hub_cache {
    default                     "@REVALIDATE@";
    "~/[0-9]+\\.tar\\.gz$"        "@IMMUTABLE@";
    "~/[0-9]+/(?:@FILES@)$"  "@IMMUTABLE@";
}

server {
    listen       @LISTEN@;
    root         "@ROOT@";
    index        index.html;
    disable_symlinks on from=$document_root;  # a link below the hub's folder might lead out of it
    sendfile     on;
    tcp_nopush   on;
    charset      utf-8;
    charset_types text/css text/javascript text/markdown text/plain;
    absolute_redirect off;  # redirects work behind a proxy, too
    server_tokens off;

    default_type application/octet-stream;
    types {
@TYPES@
    }
    gzip         on;
    gzip_vary    on;
    gzip_types   @COMPRESSED@;

    add_header   Cache-Control $hub_cache;
    add_header   Access-Control-Allow-Origin *;
@HEADERS@

    error_page   403 404 =404 /404.html;

    location = /404.html {
        internal;
    }

    # Where requests for a module's LiteRT file are sent by this server itself.
    location ~ ^/\\.lite(?<lite_handle>/.+)$ {
        internal;
        types { }
        set $lite_missing "";
        if (!-f $document_root$lite_handle.json) {
            set $lite_missing 1;
        }
        if (!-f $document_root$lite_handle.lite.json) {
            set $lite_missing 1;
        }
        if ($lite_missing) {
            rewrite ^ /.no-format last;
        }
        try_files @LITE@ =404;
    }

    # What publishers are writing, and whatever else is hidden.
    location ~ /\\. {
        return 404;
    }

    # A module exists when it has a record, however much of it is there already.
    location ~ ^(?<hub_handle>/.+/[0-9]+)\\.tar\\.gz$ {
        types { }
        default_type application/gzip;
        if (!-f $document_root$hub_handle.json) {
            return 404;
        }
    }

    # A file for another runtime exists when its kind has a record.
@RECORDED@    location / {
        # Asked for TensorFlow Lite, as tfhub.dev was: the module's LiteRT file, in float32 where there is one.
        if ($hub_format = lite) {
            rewrite ^/([^/]+)/lite-model/(.+/[0-9]+)/?$ /.lite/$1/$2 last;
            rewrite ^/([^/]+/.+)/lite/([0-9]+)/?$ /.lite/$1/$2 last;
            rewrite ^/(.+/[0-9]+)/?$ /.lite/$1 last;
        }
        # The document of kind Lite lies at NAME/lite/VERSION.md; the module's page lists its files.
        if (!-e $request_filename) {
            rewrite ^/([^/]+/.+)/lite/([0-9]+)/?$ /$1/$2/ redirect;
        }
        # hub.load("https://HOST/PUBLISHER/NAME/VERSION") asks for ?tf-hub-format=compressed.
        if ($hub_format = compressed) {
            rewrite ^(/.+/[0-9]+)/?$ $1.tar.gz last;
            return 404;
        }
        # No other format is here: a client would save the page as a model. A file that it names is sent, as to everybody.
        set $hub_missing $hub_format;
        if (-f $request_filename) {
            set $hub_missing "";
        }
        if ($hub_missing ~ ^(?:other|lite)$) {
            rewrite ^ /.no-format last;
        }
    }

    location = /.no-format {
        internal;
        default_type text/plain;
        return 404 "This address has no file in the format that was asked for. Fix: ask for tf-hub-format=compressed.\\n";
    }
}
"""


RECORDED = """\
    location ~ ^(?<hub_handle>/.+/[0-9]+)/(?:@FILES@)$ {
        types { }
        if (!-f $document_root$hub_handle.json) {
            return 404;
        }
        if (!-f $document_root$hub_handle.@KIND@.json) {
            return 404;
        }
    }

"""


def configuration(storage: Storage, *, listen: str) -> str:
    """Return the text for a folder hub; `listen` as nginx has it, like `127.0.0.1:8080` or `80`.

    Raises:
      StorageError: the hub is no folder, or its path cannot be written down.
    """
    if not storage.is_local:
        message = f"nginx cannot read {storage.url}"
        raise StorageError(with_fix(message, "give a folder, or put nginx in front of tools/serve.py"))
    if re.search(r'["$\\\s;{}]', storage.url):
        message = f"{storage.url} has characters that have a meaning in a configuration of nginx"
        raise StorageError(with_fix(message, "move the hub, or link to it"))
    types: dict[str, list[str]] = {}
    for ending, media_type in CONTENT_TYPES.items():
        types.setdefault(media_type.partition(";")[0], []).append(ending.rpartition(".")[2])
    del types["application/gzip"]
    recorded = (
        RECORDED.replace("@KIND@", kind).replace("@FILES@", _alternatives(layout.FORMAT_FILES[name] for name in names))
        for kind, names in layout.FORMATS_OF_KIND.items()
    )
    lite = (f"$lite_handle/{layout.FORMAT_FILES[name]}" for name in layout.FORMATS_OF_KIND[layout.LITE])
    values = {
        "FILES": _alternatives(layout.FORMAT_FILES.values()),
        "LITE": " ".join(lite),
        "RECORDED": "".join(recorded),
        "FORMATS": "|".join(("tf-hub-format", *OTHER_FORMATS)),
        "LISTEN": listen,
        "ROOT": storage.url,
        "TYPES": "\n".join(f"        {media_type:24} {' '.join(endings)};" for media_type, endings in types.items()),
        "COMPRESSED": " ".join(CONTENT_TYPES[ending].partition(";")[0] for ending in COMPRESSED),
        "HEADERS": "\n".join(f'    add_header   {name} "{value}" always;' for name, value in SECURITY_HEADERS.items()),
        "IMMUTABLE": IMMUTABLE,
        "REVALIDATE": REVALIDATE,
    }
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], TEMPLATE)


def _alternatives(files: Iterable[str]) -> str:
    """Return names of files as alternatives of a pattern."""
    return "|".join(map(re.escape, files))
