"""Conversations as transformers' apply_chat_template writes them, or how the template refuses them.

The templates are in the style of real ones: ChatML; Llama 2, whose turns must alternate; Gemma, which has no system role;
one with tools and a date, as Llama 3.1's; and one that strips named characters, as Qwen3's.
"""

import json

from golden_file import write_golden
from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

CHATML = """{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}
"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}
{% set turns = messages[1:] %}
{% set preface = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
{% set turns = messages %}
{% set preface = '' %}
{% endif %}
{% for turn in turns %}
{% if (turn['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user, assistant, user, assistant, ...') }}
{% endif %}
{% if turn['role'] == 'user' %}
{{ bos_token + '[INST] ' + (preface if loop.first else '') + turn['content'].strip() + ' [/INST]' }}
{%- elif turn['role'] == 'assistant' %}
{{ ' '  + turn['content'].strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% set speaker = 'model' if m.role == 'assistant' else m.role %}
{{ '<start_of_turn>' ~ speaker ~ '\\n' ~ m.content | trim ~ '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

TOOLS = """{{- bos_token }}
{%- set ns = namespace(tools_shown=false) %}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if tools and not ns.tools_shown %}
{%- set ns.tools_shown = true %}
{{- 'Environment: ipython\\n' }}
{%- for tool in tools %}
{{- tool | tojson(indent=2) }}
{{- '\\n\\n' }}
{%- endfor %}
{%- endif %}
{%- if message.tool_calls is defined and message.tool_calls %}
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "parameters": ' + (call.function.arguments | tojson) + '}' }}
{%- endfor %}
{%- elif message.role in ['tool', 'ipython'] %}
{{- message.content | tojson }}
{%- else %}
{{- message.content | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- endfor %}"""

STRIPPING = """{%- for message in messages %}
{%- set body = message.content %}
{%- if message.role == 'assistant' and '</think>' in body %}
{%- set thought = body.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set body = body.split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + body + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + body + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}"""


def turns(*contents, system=None):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for index, content in enumerate(contents):
        messages.append({"role": "assistant" if index % 2 else "user", "content": content})
    return messages


TOOL_LIST = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather at a place",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
CALLING = [
    {"role": "user", "content": "How is the weather in Zürich?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}],
    },
    {"role": "tool", "content": '{"rain": true}'},
    {"role": "assistant", "content": "It rains."},
]
CONVERSATIONS = [
    {"messages": turns("Hello", "Hi! How can I help?")},
    {"messages": turns("  one \n", "\n two", "three\t", " four  ")},
    {"messages": turns("你好 🙂", "Grüße, “Welt”", system="Réponds en français.\n")},
    {"messages": turns("{{ not_a_variable }} {% if %} <b>&amp;</b>", "'quoted' \"twice\" \\ back")},
    {"messages": turns("Only a question")},
    {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    {"messages": turns("2+2?", "<think>\n\n  Four, I think. \n\n</think>\n\n  4\n")},
    {"messages": CALLING, "tools": TOOL_LIST},
    {"messages": turns("Tools, but none used", "Fine"), "tools": TOOL_LIST},
]
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "gemma": GEMMA, "tools": TOOLS, "stripping": STRIPPING}


def rendered(template, conversation):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>", chat_template=template
    )
    try:
        text = tokenizer.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), tokenize=False, add_generation_prompt=False
        )
    except TemplateError as error:
        return {"refusal": str(error)}
    return {"text": text}


cases = {
    name: [rendered(template, json.loads(json.dumps(conversation))) for conversation in CONVERSATIONS]
    for name, template in TEMPLATES.items()
}
write_golden(
    "chat_templates",
    None,
    ["transformers", "jinja2", "tokenizers"],
    {"templates": TEMPLATES, "conversations": CONVERSATIONS, "rendered": cases},
)
