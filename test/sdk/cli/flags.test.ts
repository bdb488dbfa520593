import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { schemeSchema, trainingSchema } from 'cherryq/contract';
import { UsageError } from '../../../sdk/src/cli/command.ts';
import { flagsOf, givenFlags, kebabCase, parseFlags, schemeFlags, trainingFlags } from '../../../sdk/src/cli/flags.ts';

describe('flags of the contract', () => {
  it('are one for each field, in kebab case', () => {
    expect(Object.keys(schemeFlags)).toEqual(Object.keys(schemeSchema.shape).map(kebabCase));
    expect(Object.keys(trainingFlags)).toEqual(Object.keys(trainingSchema.shape).map(kebabCase));
    expect(Object.keys(schemeFlags)).toContain('group-size');
  });

  it('say what is allowed and what the default is', () => {
    expect(schemeFlags.method).toMatchObject({ type: 'string', valueHint: 'rtn|qat|cherryq' });
    expect(schemeFlags.bits).toMatchObject({
      valueHint: '2|3|4|8',
      description: 'Bits per weight (2, 3, 4 or 8; default 3)',
    });
    expect(schemeFlags['group-size']).toMatchObject({
      valueHint: 'N|row',
      description: 'Weights of a row that share one scale (a whole number of at least 1 or row; default 128)',
    });
    expect(trainingFlags['learning-rate'].description).toContain('a number above 0 and at most 1; default 0.0001');
    expect(trainingFlags['sequence-length'].description).toContain('a whole number from 8 to 32768; default 256');
    expect(trainingFlags['final-learning-rate-fraction'].description).not.toContain('default');
  });
});

describe('givenFlags', () => {
  it('turns text into what the schema takes, and leaves the rest to the server', () => {
    expect(givenFlags(schemeSchema, { bits: '4', 'group-size': 'row', out: 'x' })).toEqual({
      bits: 4,
      groupSize: 'row',
    });
    expect(givenFlags(schemeSchema, { 'group-size': '64' })).toEqual({ groupSize: 64 });
    expect(givenFlags(trainingSchema, { 'learning-rate': '2e-5' })).toEqual({ learningRate: 2e-5 });
    expect(givenFlags(trainingSchema, { 'trained-parameters': 'linears, norms' })).toEqual({
      trainedParameters: ['linears', 'norms'],
    });
    expect(givenFlags(schemeSchema, {})).toEqual({});
  });

  it.each([
    ['bits', '5', '--bits must be 2, 3, 4 or 8; got "5"'],
    ['bits', '0', '--bits must be 2, 3, 4 or 8; got "0"'],
    ['method', 'gptq', '--method must be rtn, qat or cherryq; got "gptq"'],
    ['group-size', '0', '--group-size must be a whole number of at least 1 or row; got "0"'],
    ['group-size', 'column', '--group-size must be a whole number of at least 1 or row; got "column"'],
    ['cherry-fraction', '0.5', '--cherry-fraction must be a number above 0 and at most 0.25; got "0.5"'],
  ])('refuses --%s %s', (flag, value, message) => {
    expect(() => givenFlags(schemeSchema, { [flag]: value })).toThrow(UsageError);
    expect(() => givenFlags(schemeSchema, { [flag]: value })).toThrow(message);
  });

  it('names what a list may hold', () => {
    expect(() => givenFlags(trainingSchema, { 'trained-parameters': 'linears,biases' })).toThrow(
      '--trained-parameters must be a list, by commas, of embeddings, linears, norms or head; got "linears,biases"',
    );
    expect(trainingFlags['trained-parameters'].valueHint).toBe('embeddings|linears|norms|head,...');
  });

  it('refuses fractions, words and nothing where a whole number belongs', () => {
    for (const value of ['1.5', 'many', ' ', 'NaN', 'Infinity'])
      expect(() => givenFlags(trainingSchema, { tokens: value })).toThrow(
        '--tokens must be a whole number of at least 1',
      );
  });
});

describe('parseFlags', () => {
  it('fills in the defaults', () => {
    const schema = z.object({ port: z.int().min(0).max(65_535).default(7433) });
    expect(Object.keys(flagsOf(schema, { port: 'Port' }))).toEqual(['port']);
    expect(parseFlags(schema, {})).toEqual({ port: 7433 });
    expect(() => parseFlags(schema, { port: '70000' })).toThrow(
      '--port must be a whole number from 0 to 65535; got "70000"',
    );
  });
});
