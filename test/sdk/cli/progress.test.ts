import { describe, expect, it } from 'vitest';
import type { JobEvent, Progress } from 'cherryq/contract';
import { createProgress } from '../../../sdk/src/cli/progress.ts';
import { eventId } from '../support.ts';
import { memoryIo } from './memory-io.ts';

let count = 0;
const event = (body: object): JobEvent =>
  ({ id: eventId(++count), time: '2026-11-23T00:00:00.000Z', ...body }) as unknown as JobEvent;
const progress = (fields: Partial<Progress>): JobEvent =>
  event({
    type: 'progress',
    progress: {
      phase: 'train',
      step: 10,
      totalSteps: 100,
      fraction: 0.25,
      loss: 3.4567,
      tokensPerSecond: 5234.5,
      secondsLeft: 80,
      ...fields,
    },
  });

describe('progress on a terminal', () => {
  it('is one line, written over and over, with phase, bar, steps, loss, speed and time left', () => {
    const { io, stderr } = memoryIo({ isTTY: true });
    let now = 0;
    const view = createProgress(io, true, () => now);
    view.event(progress({}));
    now += 10;
    view.event(progress({ step: 11 }));
    now += 100;
    view.event(progress({ step: 12 }));
    expect(stderr()).toBe(
      ['10', '12']
        .map((step) => `\r\u001B[2Ktrain    ███░░░░░░░░░  25 %  ${step}/100  loss 3.457  5,235 tok/s  1 m 20 s left`)
        .join(''),
    );
  });

  it('never is wider than the terminal', () => {
    const { io, stderr } = memoryIo({ isTTY: true, columns: 40 });
    createProgress(io, true, () => 0).event(progress({}));
    expect(stderr().replace('\r\u001B[2K', '')).toHaveLength(39);
  });

  it('leaves no line behind', () => {
    const { io, stderr } = memoryIo({ isTTY: true });
    const view = createProgress(io, true, () => 0);
    view.event(progress({}));
    view.end();
    expect(stderr().endsWith('\r\u001B[2K')).toBe(true);
  });
});

describe('progress elsewhere', () => {
  it('is a plain line every few seconds, and at the end of a phase', () => {
    const { io, stderr } = memoryIo();
    let now = 0;
    const view = createProgress(io, true, () => now);
    for (const step of [1, 2, 3, 4, 5, 100]) {
      view.event(progress({ step }));
      now += 2000;
    }
    const steps = [...stderr().matchAll(/(\d+)\/100/g)].map(([, step]) => step);
    expect(steps).toEqual(['1', '4', '100']);
    expect(stderr()).not.toContain('\u001B');
  });

  it('tells starts, interruptions and warnings', () => {
    const { io, stderr } = memoryIo();
    const view = createProgress(io, true);
    const started = { type: 'job.started', attempt: 2, engine: 'wasm', engineReason: 'the best', resumedFromStep: 10 };
    view.event(event(started));
    view.event(event({ type: 'job.waiting', reason: 'no machine is free' }));
    view.event(event({ type: 'job.interrupted', attempt: 2, reason: 'stopped on request' }));
    view.event(event({ type: 'log', level: 'warning', message: 'little text' }));
    expect(stderr().split('\n')).toEqual([
      'started (attempt 2, goes on from step 10) on wasm: the best',
      'waiting: no machine is free',
      'interrupted: stopped on request',
      'warning: little text',
      '',
    ]);
  });

  it('is silent for --json', () => {
    const { io, stderr } = memoryIo();
    const view = createProgress(io, false);
    view.event(progress({}));
    view.note('x');
    view.transfer('upload', 1, 2);
    expect(stderr()).toBe('');
  });
});
