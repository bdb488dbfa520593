import { describe, expect, it } from 'vitest';
import { machineSchema } from 'cherryq/contract';
import { machinesOf, machineTable } from '../../api/src/machines.ts';

describe('the table of machines', () => {
  it('describes each machine as the contract asks, the cheapest first', () => {
    const all = Object.values(machineTable);
    expect(machinesOf(Object.keys(machineTable)).map((machine) => machineSchema.parse(machine).name)).toEqual(
      all.map(({ name }) => name),
    );
    const prices = all.map(({ dollarsPerHour }) => dollarsPerHour);
    expect(prices).toEqual([...prices].sort((a, b) => a - b));
    expect(new Set(all.map(({ gpu }) => gpu))).toEqual(new Set(['T4', 'A10G', 'L4', 'L40S', 'A100', 'H100']));
  });

  it('takes names and own descriptions in one list, in its order', () => {
    const own = { name: 'mine', engine: 'native', hostBytes: 8e9, operationsPerSecond: 1e11 };
    const machines = machinesOf([machineSchema.parse(own), 'g5.xlarge']);
    expect(machines.map(({ name, dollarsPerHour }) => [name, dollarsPerHour])).toEqual([
      ['mine', null],
      ['g5.xlarge', 1.006],
    ]);
  });

  it.each([
    ['g5.2xlage', 'g5.2xlarge'],
    ['p4.24xlarge', 'p4d.24xlarge'],
    ['constructor', 'g'],
  ])('refuses %s, and names the nearest', (name, nearest) => {
    expect(() => machinesOf([name])).toThrow(
      new RegExp(`no built-in machine "${name}"; the nearest name is ${nearest}`),
    );
  });
});
