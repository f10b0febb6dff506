def comparable(line):
    return ""
