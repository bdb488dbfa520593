import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseContext } from '../../infra/context.ts';

const defaults = {
  installName: 'cherryq',
  encryption: 'kms',
  retainData: true,
  checkpointDays: 14,
  noncurrentVersionDays: 30,
};

describe('parseContext', () => {
  it('has a default for every key, and cdk.json writes them out', () => {
    const cdkJson: { context: Record<string, unknown> } = JSON.parse(
      readFileSync(new URL('../../cdk.json', import.meta.url), 'utf8'),
    );
    expect(parseContext({})).toEqual(defaults);
    expect(parseContext(cdkJson.context)).toEqual(defaults);
    expect(Object.keys(cdkJson.context)).toHaveLength(Object.keys(defaults).length);
  });

  it('reads the text that -c hands over', () => {
    expect(parseContext({ 'cherryq:checkpointDays': '3', 'cherryq:retainData': 'false' })).toEqual({
      ...defaults,
      checkpointDays: 3,
      retainData: false,
    });
  });

  it("lets the CDK's own keys pass", () => {
    expect(parseContext({ 'aws:cdk:enable-asset-metadata': true })).toEqual(defaults);
  });

  it.each([
    ['installName', 'Cherry_Q', 'lower-case letters'],
    ['encryption', 'none', '"kms" or "s3"'],
    ['retainData', 'maybe', 'true or false'],
    ['checkpointDays', 0, 'from 1 to 3650'],
    ['noncurrentVersionDays', '1.5', 'from 1 to 3650'],
  ])('names %s, the value received and the values allowed', (key, value, allowed) => {
    const parse = () => parseContext({ [`cherryq:${key}`]: value });
    expect(parse).toThrow(`cherryq:${key}: got ${JSON.stringify(value)}`);
    expect(parse).toThrow(allowed);
  });

  it('names a key that it does not know', () => {
    expect(() => parseContext({ 'cherryq:checkpointDay': 3 })).toThrow('cherryq:checkpointDay: unknown; known are');
  });
});
