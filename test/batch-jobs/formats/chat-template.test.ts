import { describe, expect, it } from 'vitest';
import { openChatTemplate } from '../../../batch-jobs/src/formats/chat-template.ts';
import type { ChatMessage, ChatTemplate } from '../../../batch-jobs/src/formats/chat-template.ts';
import type { JsonObject } from '../../../batch-jobs/src/formats/json.ts';
import { golden } from '../../support/golden.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

const tokens = { bos_token: '<s>', eos_token: { content: '</s>', lstrip: false } };

async function open(files: Record<string, unknown>): Promise<ChatTemplate | null> {
  const texts = Object.entries(files).map(([path, content]): [string, string | Uint8Array] => [
    `m/${path}`,
    typeof content === 'string' || content instanceof Uint8Array ? content : JSON.stringify(content),
  ]);
  return openChatTemplate(await temporaryStore(Object.fromEntries(texts)), 'm/');
}

async function templateOf(text: string): Promise<ChatTemplate> {
  const template = await open({ 'chat_template.jinja': text, 'tokenizer_config.json': tokens });
  if (template === null) throw new Error('there is a template');
  return template;
}

const hello: ChatMessage[] = [{ role: 'user', content: 'Hello' }];

describe('render', () => {
  const { templates, conversations, rendered } = golden<{
    templates: Record<string, string>;
    conversations: { messages: ChatMessage[]; tools?: JsonObject[] }[];
    rendered: Record<string, { text?: string; refusal?: string }[]>;
  }>('chat_templates');

  it.each(Object.keys(templates))(
    'writes and refuses conversations as transformers does, by a template like %s',
    async (name) => {
      const template = await templateOf(templates[name]);
      for (const [index, { messages, tools }] of conversations.entries()) {
        // A template that knows no tools gets calls as text, where transformers loses them.
        const differs = messages.some((message) => message.tool_calls) && !templates[name].includes('tool_calls');
        const expected = rendered[name][index];
        const render = (): string => template.render(messages, tools ?? null, 'line 1 of a.jsonl');
        if (expected.refusal !== undefined) {
          expect(render).toThrow(
            expect.objectContaining({
              name: 'InputError',
              code: 'chat_template_failed',
              message: expect.stringContaining(`refuses line 1 of a.jsonl: ${expected.refusal}.`),
            }),
          );
        } else if (differs) expect(render()).toContain('{"name":"weather","arguments":{"place":"Zürich","days":2}}');
        else expect(render()).toBe(expected.text);
      }
    },
  );

  it('strips as Python does: the characters that are named, else Python’s white space', async () => {
    const template = await templateOf(
      "{% set c = messages[0].content %}{{ c.strip('x\\n') }}|{{ c.lstrip('x') }}|{{ c.rstrip('x') }}|{{ c.strip() }}|{{ c.strip(none) }}",
    );
    const content = 'xx\n a\u{1F600} \nx';
    expect(template.render([{ role: 'user', content }], null, 'x')).toBe(
      ` a\u{1F600} |\n a\u{1F600} \nx|xx\n a\u{1F600} \n|${content}|${content}`,
    );
    const spaces = await templateOf('[{{ messages[0].content.strip() }}]');
    expect(spaces.render([{ role: 'user', content: '\x1c\x85\u3000\uFEFFa\u2029' }], null, 'x')).toBe('[\uFEFFa]');
  });

  it('has no clock, so that a job gives the same on any day', async () => {
    const template = await templateOf("{{ strftime_now('%d %b %Y, %A, %-d/%m %H:%M %%') }}");
    expect(template.render(hello, null, 'x')).toBe('26 Jul 2024, Friday, 26/07 00:00 %');
  });

  it('leaves a token out of the template’s sight that the model does not have', async () => {
    const text = '{{ bos_token is defined }} {{ pad_token }}';
    const template = await open({
      'chat_template.jinja': text,
      'tokenizer_config.json': { bos_token: null },
      'special_tokens_map.json': { bos_token: '<s>', pad_token: { content: '<pad>' } },
    });
    expect(template?.render(hello, null, 'x')).toBe('false <pad>');
  });

  it.each([
    ['loops without end', '{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}', /too long/],
    ['asks for a huge range', '{% for a in range(1000000000) %}{% endfor %}', /too long/],
    [
      'doubles a text',
      `{% set ns = namespace(t='aa') %}{% for a in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}`,
      /too long/,
    ],
    [
      'doubles a list',
      `{% set ns = namespace(t=[1]) %}{% for a in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}`,
      /too long/,
    ],
    ['calls itself', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', /fails on line 7 of a\.jsonl/],
    ['joins what is not there', "{{ 'a' + messages[0].nothing }}", /fails on line 7 of a\.jsonl \(.*undefined/],
    ['calls what is not there', '{{ open("file") }}', /fails on line 7 of a\.jsonl/],
  ])('stops a template that %s, naming the conversation', async (_, text, message) => {
    const template = await templateOf(text);
    expect(() => template.render(hello, null, 'line 7 of a.jsonl')).toThrow(
      expect.objectContaining({ code: 'chat_template_failed', message: expect.stringMatching(message) }),
    );
  });

  it('reaches nothing outside the conversation', async () => {
    const template = await templateOf(
      "{{ messages.constructor }}|{{ messages[0]['__proto__'] }}|{{ ''.constructor }}|{{ process }}",
    );
    expect(template.render(hello, null, 'x')).toBe('|||');
  });
});

describe('openChatTemplate', () => {
  const show = (template: ChatTemplate | null, tools: JsonObject[] | null = null): string | undefined =>
    template?.render(hello, tools, 'x');

  it('finds none in a model without one', async () => {
    expect(await open({ 'tokenizer_config.json': tokens })).toBeNull();
    expect(await open({})).toBeNull();
  });

  it('prefers chat_template.jinja, then tokenizer_config.json, then chat_template.json', async () => {
    const last = { 'chat_template.json': { chat_template: 'json' } };
    const second = { ...last, 'tokenizer_config.json': { chat_template: 'config' } };
    expect(show(await open({ ...second, 'chat_template.jinja': 'jinja' }))).toBe('jinja');
    expect(show(await open({ ...second, 'chat_template.jinja': '' }))).toBe('');
    expect(show(await open(second))).toBe('config');
    expect(show(await open(last))).toBe('json');
  });

  it('takes the one named tool_use where a conversation has tools', async () => {
    const list = [
      { name: 'default', template: 'plain' },
      { name: 'tool_use', template: '{{ tools[0].function.name }}' },
    ];
    const tools = [{ type: 'function', function: { name: 'weather' } }];
    const listed = await open({ 'tokenizer_config.json': { chat_template: list } });
    expect([show(listed), show(listed, tools)]).toEqual(['plain', 'weather']);
    const files = await open({
      'chat_template.jinja': 'plain file',
      'additional_chat_templates/tool_use.jinja': 'tools file',
      'tokenizer_config.json': { chat_template: list },
    });
    expect([show(files), show(files, tools)]).toEqual(['plain file', 'tools file']);
  });

  it.each<[string, RegExp, Record<string, unknown>]>([
    [
      'none is the default',
      /has the templates rag, but none named default/,
      { 'tokenizer_config.json': { chat_template: [{ name: 'rag', template: '' }] } },
    ],
    ['it is no text', /has 7 as chat_template/, { 'tokenizer_config.json': { chat_template: 7 } }],
    [
      'one of them has no text',
      /has {"name":"default"} among/,
      { 'tokenizer_config.json': { chat_template: [{ name: 'default' }] } },
    ],
    [
      'it is not UTF-8',
      /chat_template\.jinja is not text in UTF-8/,
      { 'chat_template.jinja': Uint8Array.of(0xff, 0x80) },
    ],
    ['it is huge', /more than 131072 characters/, { 'chat_template.jinja': ' '.repeat(200_000) }],
  ])('refuses a model where %s', async (_, message, files) => {
    await expect(open(files)).rejects.toMatchObject({
      code: 'invalid_chat_template',
      message: expect.stringMatching(message),
    });
  });

  it('refuses a template with wrong Jinja only when a conversation needs it', async () => {
    const template = await templateOf('{% if %}');
    expect(() => template.render(hello, null, 'x')).toThrow(
      expect.objectContaining({ code: 'invalid_chat_template', message: expect.stringContaining('is not valid') }),
    );
  });
});
