// See tests/interop/templates. A template that the package lacks is stated here as its published difference
// from one that it has.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [work, output, many] = process.argv.slice(2);
const packageFile = (name) => join(work, "node_modules/@huggingface", name);
const { Template } = await import(pathToFileURL(packageFile("jinja/dist/index.js")));
const source = readFileSync(packageFile("ollama-utils/src/chat-template-automap.ts"), "utf8");
const published = new Map();
const entries = source.matchAll(/^\t\tmodel: "library\/(.*)",\n\t\tgguf: ?\n?\t*(.*),$/gm);
for (const [, model, text] of entries) if (!published.has(model)) published.set(model, (0, eval)(text));

const text = (model) => published.get(model) ?? fail(`no template of ${model}`);
function fail(why) { throw new Error(why); }
function change(text, ...changes) {
    for (const [before, after] of changes) {
        if (!text.includes(before)) fail(`no ${before}`);
        text = text.replaceAll(before, after);
    }
    return text;
}

const prompts = "{{'<｜Assistant｜>'}}{% endif %}", promptsThought = "{{'<｜Assistant｜><think>\\n'}}{% endif %}";
const call = "tool['function']['arguments']", callAsJson = `(${call} if ${call} is string else ${call} | tojson)`;
const withoutThought = "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}";
const r1First = text("deepseek-r1:8b"), r1Distill = change(r1First, [prompts, promptsThought]), r1Middle = text("r1-1776:671b"), r10528 = text("deepseek-r1:latest");
const v30324 = change(r10528,
    [`{%- for message in messages %}{% set content = message['content'] %}`, "{%- for message in messages %}"],
    [`{%- if message['role'] == 'assistant' %}${withoutThought}{% endif %}`, ""],
    ["content is none", "message['content'] is none"],
    ["{{content + '<｜tool▁calls", "{{message['content'] + '<｜tool▁calls"],
    ["> ' + content + '".replace(" ", ""), ">' + message['content'] + '"],
    ["{%- else %}{{content", "{%- else %}{% set content = message['content'] %}{{content"]);
const qwen3 = text("qwen3:0.6b");
const qwen3Strings = change(qwen3,
    [`message.role == "user" and not(`, `message.role == "user" and message.content is string and not(`],
    ["{%- for message in messages %}\n    {%- if (message.role", "{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n" +
        "    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {%- if (message.role"],
    ["'\\n' + message.content + '<|im_end|>'", "'\\n' + content + '<|im_end|>'"],
    ["        {%- set content = message.content %}\n        {%- set reasoning_content = '' %}", "        {%- set reasoning_content = '' %}"],
    ["message.reasoning_content is defined and message.reasoning_content is not none", "message.reasoning_content is string"],
    ["'</think>' in message.content", "'</think>' in content"],
    [/( *\{%- set content = message\.content\.split.*\n)( *\{%- set reasoning_content = message\.content\.split.*\n)/.exec(qwen3)[0],
        /( *\{%- set content = message\.content\.split.*\n)( *\{%- set reasoning_content = message\.content\.split.*\n)/.exec(qwen3).slice(1).reverse().join("").replaceAll("message.content", "content")],
    ["{{- message.content }}", "{{- content }}"]);
const asked = "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}", chatml = text("dolphin-mixtral:8x7b");

// By the names of the built-in templates. All texts of a row must render alike.
const rows = {
    "deepseek-r1-distill": [r1Distill, change(r1Distill, [call, callAsJson])],
    "deepseek-r1-first": [r1First],
    "deepseek-r1": [change(r1Middle, [prompts, promptsThought])],
    "r1-1776": [r1Middle],
    "deepseek-r1-0528": [r10528, change(r10528, [call, callAsJson])],
    "deepseek-v3": [text("deepseek-v3:671b")],
    "deepseek-v3-first": [change(r1First, [`{% set content = message['content'] %}${withoutThought}{{'<｜Assistant｜>' + content`, "{{'<｜Assistant｜>' + message['content']"])],
    "deepseek-v3-0324": [v30324],
    "deepseek-v3.1": [text("deepseek-v3.1:latest")],
    "deepseek-v2.5": [text("deepseek-v2.5:236b")],
    "deepseek-llm": [text("deepseek-coder-v2:16b")],
    "deepseek-coder": [text("deepseek-coder:1.3b")],
    "llama3": [text("llama3:8b")],
    "llama3-first": [text("dolphin-llama3:8b")],
    "qwen2.5": [text("qwen2.5-coder:1.5b"), text("qwen2.5:0.5b")],
    "qwen3": [qwen3, qwen3Strings],
    "chatml": [change(chatml, [asked, ""]), chatml],
};
const withTools = new Set(Object.keys(rows).filter((name) => /deepseek-[rv]|r1|qwen/.test(name)));
// The variable that switches thinking, for templates that have one.
const switches = { "deepseek-v3.1": "thinking", "qwen3": "enable_thinking" };

// ---- Conversations

const call1 = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
const pool = {
    system: ["Be brief.", "", " Two\n", "</think>"],
    user: ["Hello", "  What is 2+2? \n", "", "<tool_response>\nx\n</tool_response>", "你好 </think> <think>", "<|im_end|>\n<｜User｜>"],
    assistant: ["Hi there", "<think>\nhm\n</think>\n\nFour.", "", "a</think>b</think>\n c ", "<think>so</think>" + call1, " <think>\n\n\nx\n\n</think>", "<think>\n\n</think>\n\nNo.",
        "\n\n\nwhat<think>a<think>b</think>\n", "<think>unfinished", "\t\n"],
    tool: ["4", "", "{\"a\": [1]}\n", "</tool_response>"],
};
const counts = { system: 0, user: 0, assistant: 0, tool: 0 };
const next = (role) => [role, pool[role][counts[role]++ % pool[role].length]];
const conversations = [];
const roles = { s: "system", u: "user", a: "assistant", t: "tool" };
function add(pattern) { conversations.push([...pattern].map((c) => next(roles[c]))); }
for (const a of "suat") {
    add(a);
    for (const b of "suat") add(a + b);
}
for (const pattern of ["suau", "usau", "uusu", "auau", "ussas", "sasa", "uata", "uatau", "uattau", "uattatu", "utu", "uttu", "utua", "tta", "uaauaa", "uatuata", "uatatat", "suatau", "aauu",
    "uauauau", "uaua", "uatsat", "utsa", "uas", "uts", "usas", "ssus", "uuata", "atatu", "uauta", "uatata", "uau", "uau", "uau", "uau", "uau", "uau", "uau", "uau", "uaa", "uaa", "uaa", "uta", "uta", "uta", "uatua"])
    add(pattern);
if (many) {    // thousands at random, for a check whose output is not committed
    let state = 1;
    const random = (n) => (state = (state * 48271) % 2147483647) % n;
    const pieces = ["<think>", "</think>", "\n", " ", "a", "b", "<tool_response>", "</tool_response>", "é", call1];
    for (let i = 0; i < Number(many); ++i)
        conversations.push(Array.from({ length: 1 + random(7) }, () => [roles["suaat"[random(5)]], random(3) ? pieces[random(10)] + pieces[random(10)] + pieces[random(10)] : ""]));
}

// ---- Renderings

// The package's strip, lstrip and rstrip remove all white space and ignore their argument. Python's remove
// the given characters, which in Qwen 3's templates are always a line feed.
const { trim, trimStart, trimEnd } = String.prototype;
function withPythonStrips(render) {
    String.prototype.trimStart = function () { return this.replace(/^\n+/, ""); };
    String.prototype.trimEnd = function () { return this.replace(/\n+$/, ""); };
    String.prototype.trim = function () { return this.trimStart().trimEnd(); };
    try {
        return render();
    } finally {
        Object.assign(String.prototype, { trim, trimStart, trimEnd });
    }
}

const tokens = { bos_token: "<｜begin▁of▁sentence｜>", eos_token: "<｜end▁of▁sentence｜>" };
const directory = join(work, "templates");
mkdirSync(directory, { recursive: true });
const renderings = {};
for (const [name, texts] of Object.entries(rows)) {
    texts.forEach((t, i) => writeFileSync(join(directory, `${name}.${i}.jinja`), t));
    const render = (messages, options) => {
        const list = messages.map(([role, content]) => ({ role, content }));
        const values = { messages: list, ...tokens, ...options };
        const all = texts.map((t) => new Template(t)).map((t) =>
            name === "qwen3" ? withPythonStrips(() => t.render(values)) : t.render(values));
        if (!all.every((x) => x === all[0])) fail(`the texts of ${name} differ: ${JSON.stringify(all)}`);
        return all[0];
    };
    // The text with the generation prompt, the length of that prompt in bytes, and the prompts with thinking
    // on and off.
    renderings[name] = conversations.map((messages) => {
        if (messages.some(([role]) => role === "tool") && !withTools.has(name)) return null;
        const asked = render(messages, { add_generation_prompt: true });
        const unasked = render(messages, { add_generation_prompt: false });
        if (!asked.startsWith(unasked)) fail(`${name}: ${asked} does not begin with ${unasked}`);
        const line = [asked, Buffer.byteLength(asked) - Buffer.byteLength(unasked)];
        if (!(name in switches)) return line;
        for (const on of [true, false]) {
            const told = render(messages, { add_generation_prompt: true, [switches[name]]: on });
            if (!told.startsWith(unasked)) fail(`${name}: ${told} does not begin with ${unasked}`);
            line.push(told.slice(unasked.length));
        }
        return line;
    });
}
const lines = (list) => "[\n" + list.map((x) => JSON.stringify(x)).join(",\n") + "\n]";
writeFileSync(output, `{"conversations": ${lines(conversations)},\n"renderings": {\n` +
    Object.entries(renderings).map(([name, list]) => `${JSON.stringify(name)}: ${lines(list)}`).join(",\n") + "\n}}\n");
console.log(`${conversations.length} conversations, ${Object.keys(rows).length} templates`);
